"""New disk images with the real qemu-img."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from labyard.core.adapter import AdapterError
from labyard.vms.adapters.qemu_img import ImageOptions, QemuImages

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is missing: install qemu-utils")


def info(path: Path) -> dict[str, Any]:
    done = subprocess.run(["qemu-img", "info", "--output=json", path], capture_output=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.raw"
    path.write_bytes(b"base".ljust(1024 * 1024, b"\0"))
    return path


def test_a_disk_is_thin_and_has_its_size(tmp_path: Path) -> None:
    path = tmp_path / "d.qcow2"
    QemuImages(ImageOptions(None, 10, "overlay")).create(path, 5)
    assert (info(path)["format"], info(path)["virtual-size"]) == ("qcow2", 5 * 1024**3)
    assert path.stat().st_size < 1024**2
    assert [file.name for file in tmp_path.iterdir()] == ["d.qcow2"]


def test_an_empty_root_disk(tmp_path: Path) -> None:
    QemuImages(ImageOptions(None, 3, "overlay")).create_root(tmp_path / "root.qcow2")
    assert info(tmp_path / "root.qcow2")["virtual-size"] == 3 * 1024**3


def test_an_overlay_leans_on_the_base(tmp_path: Path, base: Path) -> None:
    root = tmp_path / "root.qcow2"
    QemuImages(ImageOptions(base, 3, "overlay")).create_root(root)
    assert info(root)["full-backing-filename"] == str(base)
    assert info(root)["backing-filename-format"] == "raw"
    assert info(root)["virtual-size"] == 1024 * 1024


def test_a_copy_stands_by_itself(tmp_path: Path, base: Path) -> None:
    root = tmp_path / "root.qcow2"
    QemuImages(ImageOptions(base, 3, "copy")).create_root(root)
    assert info(root)["format"] == "qcow2"
    assert "backing-filename" not in info(root)


@pytest.mark.parametrize("clone", ["overlay", "copy"])
def test_a_base_that_is_missing_is_an_error_and_leaves_nothing(tmp_path: Path, clone: str) -> None:
    images = QemuImages(ImageOptions(tmp_path / "missing.qcow2", 3, clone))
    with pytest.raises(AdapterError, match=r"^qemu-img (info|convert) failed: .*No such file"):
        images.create_root(tmp_path / "root.qcow2")
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".d.qcow2.part").write_text("half")
    QemuImages(ImageOptions(None, 10, "overlay")).create(tmp_path / "d.qcow2", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["d.qcow2"]


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"^qemu-img create failed: "):
        QemuImages(ImageOptions(None, 10, "overlay")).create(tmp_path / "nowhere" / "d.qcow2", 1)
