"""What the role boot_image promises. That the image boots is proven by tests/flows."""

from __future__ import annotations

import json

import pytest
from conftest import assert_gone

from labyard.lab import LabHost

# Where the file system starts, for mtools.
FILE_SYSTEM = "@@1M"
SCRATCH_BYTES = 1024 * 1024


@pytest.fixture
def image(host: LabHost) -> str:
    return str(host.value("boot_image_path"))


class TestApplied:
    def test_image_is_a_disk_with_a_stamp(self, host: LabHost, image: str) -> None:
        assert host.shell.file(image).size == host.value("boot_image_size_mb") * 2**20
        assert set(json.loads(host.check(f"cat {image}.stamp"))) == {"boot_area", "inputs"}
        assert host.check(f"head -c 512 {image} | tail -c 2 | od -An -tx1").split() == ["55", "aa"]

    def test_boots_with_bios_and_with_uefi(self, host: LabHost, image: str) -> None:
        files = ["EFI/BOOT/BOOTX64.EFI", "initrd.img", "ldlinux.sys", "loader/loader.conf", "syslinux.cfg", "vmlinuz"]
        for path in files:
            assert host.run(f"mdir -b -a -i {image}{FILE_SYSTEM} ::{path}").rc == 0, f"{path} is missing in {image}"

    @pytest.mark.parametrize("path", ["loader/entries/labyard.conf", "syslinux.cfg"])
    def test_both_loaders_give_the_same_kernel_options(self, host: LabHost, image: str, path: str) -> None:
        options = host.check(f"mtype -i {image}{FILE_SYSTEM} ::{path}")
        assert "console=ttyS0,115200" in options
        assert f"labyard.phone_home={host.value('boot_image_phone_home_url')}" in options

    def test_scratch_area_is_clean(self, host: LabHost, image: str) -> None:
        assert host.check(f"tail -c {SCRATCH_BYTES} {image} | tr -d '\\000' | wc -c").strip() == "0"

    def test_no_temporary_file_is_left(self, host: LabHost, image: str) -> None:
        folders = f"$(dirname {image}) {host.value('boot_image_folder')}/packages"
        assert host.check(f"find {folders} -maxdepth 1 -name '.boot-image-*'") == ""


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost, image: str) -> None:
        assert_gone(host, "boot_image", image, f"{image}.stamp", str(host.value("boot_image_folder")))
