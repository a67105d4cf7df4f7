"""The registry's file (contract section 2)."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labyard.faas.registry import Function, Registry
from labyard.testing.waiting import wait_until

CORE = {"ip": "10.0.0.10", "rootfs": "/var/lib/faasd/images/th/rootfs", "cmd": ["python3", "/app/handler.py"]}
FUNCTION = Function("th", "10.0.0.10", "/var/lib/faasd/images/th/rootfs", ("python3", "/app/handler.py"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.json"


def test_what_is_put_is_in_the_file_and_read_again(path: Path) -> None:
    whole = replace(
        FUNCTION, env=("A=1",), workdir="/w", user=(1, 2), groups=(3,), key="k", limits={"cpu": 1}, created_at="now"
    )
    Registry(path).put(whole)
    assert CORE.items() <= json.loads(path.read_text())["th"].items()
    assert path.read_text().startswith('{\n  "th": {\n    "ip": "10.0.0.10",\n    "rootfs": ')
    again = Registry(path)
    again.load()
    assert again.all() == {"th": whole}


def test_core_keys_are_enough(path: Path) -> None:
    path.write_text(json.dumps({"th": CORE}))
    registry = Registry(path)
    registry.load()
    assert registry.get("th") == FUNCTION


def test_no_file_is_no_functions(path: Path) -> None:
    registry = Registry(path)
    registry.load()
    assert registry.all() == {}
    assert not path.exists()


def test_removal(path: Path) -> None:
    registry = Registry(path)
    registry.put(FUNCTION)
    assert registry.remove("th") == FUNCTION
    assert registry.remove("th") is None
    assert json.loads(path.read_text()) == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"th": 7}',
        '{"th": {}}',
        json.dumps({"th": {**CORE, "ip": "somewhere"}}),
        json.dumps({"th": {**CORE, "cmd": "sh"}}),
        json.dumps({"../th": CORE}),
        json.dumps({"a": CORE, "b": CORE}),
        json.dumps({"th": {**CORE, "user": ["root"]}}),
        json.dumps({"th": {**CORE, "limits": {"memory": "x"}}}),
        "\0\0\0",
    ],
)
def test_unusable_file_is_kept_under_another_name(path: Path, content: str) -> None:
    path.write_text(content)
    registry = Registry(path)
    registry.load()
    assert registry.all() == {}
    assert registry.damaged
    (kept,) = path.parent.iterdir()
    assert kept.name.startswith("registry.json.bad-")
    assert kept.read_text() == content


def test_failed_write_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(path)
    registry.put(FUNCTION)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        registry.put(replace(FUNCTION, name="other", ip="10.0.0.11"))
    assert set(registry.all()) == {"th"}
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["registry.json"]


def test_valid_at_every_read(path: Path) -> None:
    registry = Registry(path)
    registry.put(FUNCTION)
    done = threading.Event()
    seen: list[dict[str, Any]] = []

    def read() -> None:
        while not done.is_set():
            seen.append(json.loads(path.read_text()))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: seen, "it is being read")
    writers = [
        threading.Thread(target=registry.put, args=(replace(FUNCTION, name=f"f{n}", ip=f"10.0.0.{n + 20}"),))
        for n in range(20)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert len(json.loads(path.read_text())) == 21
