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
        others = set(host.value("boot_image_formats")) - {"raw"}
        assert set(json.loads(host.check(f"cat {image}.stamp"))) == {"boot_area", "inputs"} | others
        assert host.check(f"head -c 512 {image} | tail -c 2 | od -An -tx1").split() == ["55", "aa"]

    def test_boots_with_bios_and_with_uefi(self, host: LabHost, image: str) -> None:
        files = ["EFI/BOOT/BOOTX64.EFI", "initrd.img", "ldlinux.sys", "loader/loader.conf", "syslinux.cfg", "vmlinuz"]
        for path in files:
            assert host.run(f"mdir -b -a -i {image}{FILE_SYSTEM} ::{path}").rc == 0, f"{path} is missing in {image}"

    @pytest.mark.parametrize("path", ["loader/entries/labyard.conf", "syslinux.cfg"])
    def test_both_loaders_give_the_same_kernel_options(self, host: LabHost, image: str, path: str) -> None:
        options = host.check(f"mtype -i {image}{FILE_SYSTEM} ::{path}")
        assert "console=ttyS0,115200" in options
        home = host.value("boot_image_phone_home_url")
        assert (f"labyard.phone_home={home}" in options) if home else ("labyard.phone_home" not in options)

    def test_root_is_a_sound_file_system_with_an_init(self, host: LabHost, image: str) -> None:
        size = int(host.value("boot_image_root_mb"))
        start = int(host.value("boot_image_size_mb")) - SCRATCH_BYTES // 2**20 - size
        copy = host.check("mktemp").strip()
        try:
            host.check(f"dd if={image} of={copy} bs=1M skip={start} count={size} status=none")
            assert host.run(f"e2fsck -fn {copy}").rc == 0
            assert "labyard-root" in host.check(f"dumpe2fs -h {copy} 2>/dev/null")
            for path in ("sbin/init", "bin/busybox", "lib/labyard.sh", "bin/sh"):
                assert "Inode:" in host.check(f"debugfs -R 'stat {path}' {copy} 2>/dev/null"), f"{path} is missing"
        finally:
            host.check(f"rm {copy}")

    def test_table_names_the_root_third_and_the_scratch_area_last(self, host: LabHost, image: str) -> None:
        octets = bytes.fromhex(host.check(f"head -c 512 {image} | od -An -v -tx1").replace("\n", "").replace(" ", ""))
        entries = [octets[at : at + 16] for at in range(446, 510, 16)]
        assert [entry[4] for entry in entries] == [0x0C, 0xDA, 0x83, 0]
        starts = [int.from_bytes(entry[8:12], "little") * 512 for entry in entries[:3]]
        ends = [
            start + int.from_bytes(entry[12:16], "little") * 512
            for start, entry in zip(starts, entries[:3], strict=True)
        ]
        assert ends[0] == starts[2] and ends[2] == starts[1] and ends[1] == host.value("boot_image_size_mb") * 2**20

    def test_other_formats_hold_the_same_disk(self, host: LabHost, image: str) -> None:
        for name in set(host.value("boot_image_formats")) - {"raw"}:
            other = f"{image.removesuffix('.raw')}.{name}"
            said = host.run(f"qemu-img compare -f raw -F {name} {image} {other}")
            assert said.rc == 0, said.stdout + said.stderr

    def test_published_files_are_those_of_the_image(self, host: LabHost, image: str) -> None:
        options = host.check(f"mtype -i {image}{FILE_SYSTEM} ::syslinux.cfg").partition("APPEND ")[2].strip()
        for folder in host.value("boot_image_publish_folders"):
            for name in ("vmlinuz", "initrd.img"):
                inside = host.check(f"mtype -i {image}{FILE_SYSTEM} ::{name} | sha256sum").split()[0]
                assert host.check(f"sha256sum {folder}/{name}").split()[0] == inside
                assert host.shell.file(f"{folder}/{name}").mode == 0o644
            assert host.check(f"cat {folder}/cmdline").strip() == options

    def test_scratch_area_is_clean(self, host: LabHost, image: str) -> None:
        assert host.check(f"tail -c {SCRATCH_BYTES} {image} | tr -d '\\000' | wc -c").strip() == "0"

    def test_no_temporary_file_is_left(self, host: LabHost, image: str) -> None:
        published = " ".join(host.value("boot_image_publish_folders"))
        folders = f"$(dirname {image}) {host.value('boot_image_folder')}/packages {published}"
        assert host.check(f"find {folders} -maxdepth 1 -name '.boot-image-*'") == ""


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost, image: str) -> None:
        paths = [image, f"{image}.stamp", str(host.value("boot_image_folder"))]
        paths += [f"{image.removesuffix('.raw')}.{name}" for name in ("qcow2", "vhdx")]
        for folder in host.value("boot_image_publish_folders"):
            paths += [f"{folder}/{name}" for name in ("vmlinuz", "initrd.img", "cmdline")]
        assert_gone(host, "boot_image", *paths)
