"""Unit tests need no daemon. Ansible modules and filters are loaded from their files, as Ansible does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import certifi
import hypothesis
import pytest

COLLECTIONS = Path(__file__).parents[2] / "collections"
PLUGINS = COLLECTIONS / "ansible_collections/labyard/lab/plugins"

# How long an example takes says nothing on a machine that has other work as well. What passes once passes again; others
# are looked for with `pytest --hypothesis-profile search`.
hypothesis.settings.register_profile("labyard", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile("labyard")


@pytest.fixture(scope="session")
def authority_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One certificate authority of those that the world trusts."""
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(first + end)
    return file


@pytest.fixture(autouse=True)
def one_authority(authority_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client of HTTP reads the machine's certificate authorities, which for all of them takes it 25 ms of the
    processor. Tests here trust none but their own, so one will do."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))


@pytest.fixture(scope="session")
def load_module() -> Callable[..., ModuleType]:
    def load(name: str, kind: str = "modules") -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, PLUGINS / kind / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules find the collection's module_utils, loaded anew."""
    monkeypatch.syspath_prepend(str(COLLECTIONS))
    for name in [name for name in sys.modules if name.startswith("ansible_collections.labyard")]:
        monkeypatch.delitem(sys.modules, name)
