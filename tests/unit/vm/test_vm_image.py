"""What an image is made of, and whether the one that is there will do."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from labyard.testing.vm.errors import VMError, VMUnavailable
from labyard.testing.vm.image import find_image
from labyard.testing.vm.image import manifest as manifests
from labyard.testing.vm.image.build import load_order
from labyard.testing.vm.image.cpio import Cpio
from labyard.testing.vm.image.manifest import digest, guest_files

DEPENDENCIES = """\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
"""


@pytest.fixture
def image(tmp_path):
    for name in ("vmlinux", "initrd.cpio", "root.ext4"):
        (tmp_path / name).write_bytes(name.encode())
    manifest = {
        "kernel": "6.1.0-test",
        "guest": digest(*guest_files()),
        "files": {name: {"size": len(name), "sha256": name} for name in ("vmlinux", "initrd.cpio", "root.ext4")},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


class TestManifest:
    def test_a_whole_one(self, image):
        found = find_image(image)
        assert (found.kernel, found.root) == ("6.1.0-test", image / "root.ext4")

    @pytest.mark.parametrize("name", ["vmlinux", "initrd.cpio", "root.ext4", "manifest.json"])
    def test_a_file_is_missing_or_cut_off(self, image, name):
        (image / name).write_bytes(b"")
        with pytest.raises(VMUnavailable, match=r"no VM image in .*: run `make vm-image`"):
            find_image(image)
        (image / name).unlink()
        with pytest.raises(VMUnavailable, match="run `make vm-image`"):
            find_image(image)

    def test_the_agent_has_changed_since(self, image, monkeypatch, tmp_path):
        other = tmp_path / "guest"
        shutil.copytree(manifests.GUEST, other)
        with (other / "agent.py").open("a") as agent:
            agent.write("# changed\n")
        monkeypatch.setattr(manifests, "GUEST", other)
        with pytest.raises(VMUnavailable, match="another version of Labyard"):
            find_image(image)

    def test_its_key_is_another_for_other_files(self, image):
        before = find_image(image).key
        text = (image / "manifest.json").read_text()
        (image / "manifest.json").write_text(text.replace('"sha256": "vmlinux"', '"sha256": "other"'))
        assert find_image(image).key != before


class TestInitramfs:
    def test_modules_come_after_those_that_they_need(self):
        order = load_order(DEPENDENCIES, "kernel/fs/ext4/ext4.ko\n", ("virtio_pci", "virtio-blk", "ext4"))
        assert [path.rpartition("/")[2] for path in order] == [
            "virtio.ko",
            "virtio_ring.ko",
            "virtio_pci.ko",
            "virtio_blk.ko.xz",
        ]

    def test_no_such_module(self):
        with pytest.raises(VMError, match="no module zfs"):
            load_order(DEPENDENCIES, "", ("zfs",))

    def test_the_archive_is_one_that_cpio_reads(self, tmp_path):
        archive = Cpio()
        archive.file("a/b/file", b"content", 0o755)
        archive.folder("a/c")
        busybox = shutil.which("busybox")
        if not busybox:
            pytest.skip("busybox is not installed")
        subprocess.run([busybox, "cpio", "-id"], input=bytes(archive), cwd=tmp_path, check=True, capture_output=True)
        assert (tmp_path / "a/b/file").read_bytes() == b"content"
        assert (tmp_path / "a/b/file").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "a/c").is_dir()

    def test_the_same_files_give_the_same_bytes(self):
        def made():
            archive = Cpio()
            archive.file("init", b"x")
            archive.device("dev/null", 1, 3)
            return bytes(archive)

        assert made() == made()
        assert len(made()) % 512 == 0
