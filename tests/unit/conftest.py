"""Unit tests need no daemon. Ansible modules are loaded from their files, as Ansible does."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

MODULES = Path(__file__).parents[2] / "collections/ansible_collections/labyard/lab/plugins/modules"


@pytest.fixture(scope="session")
def load_module() -> Callable[[str], ModuleType]:
    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, MODULES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
