"""The builder of the boot image, as far as it needs no kernel package and no disk tool: tests/roles has the image."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

FILES = Path(__file__).parents[2] / "roles/boot_image/files"


@pytest.fixture(scope="module")
def builder() -> Iterator[ModuleType]:
    """The builder as it runs on a host: its own folder comes first in the path."""
    sys.path.insert(0, str(FILES))
    try:
        import build_boot_image

        yield build_boot_image
    finally:
        sys.path.remove(str(FILES))


@pytest.fixture
def options(builder: ModuleType, tmp_path: Path) -> object:
    return builder.Options(
        cache=tmp_path / "cache",
        output=tmp_path / "image.raw",
        scripts=FILES,
        busybox=tmp_path / "busybox",
        systemd_boot=tmp_path / "boot.efi",
        mbr=tmp_path / "mbr.bin",
        phone_home_url="http://192.0.2.1/phone-home",
        size_mb=64,
        root_mb=8,
        kernel_options="console=ttyS0  quiet",
        compress="none",
        modules=(),
        formats=("raw",),
        publish=(),
        check=False,
    )


def module(folder: Path, name: str, depends: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")


def cpio_names(data: bytes) -> list[str]:
    """Names in an archive, read by its headers (newc: 13 numbers of 8 hex digits)."""
    names, at = [], 0
    while data[at : at + 6] == b"070701":
        size, length = (int(data[at + 6 + 8 * field :][:8], 16) for field in (6, 11))
        names.append(data[at + 110 : at + 110 + length - 1].decode())
        at += (110 + length + 3) // 4 * 4
        at += (size + 3) // 4 * 4
    return names


class TestTree:
    def test_archive_has_folders_before_their_files_and_an_end(self, builder: ModuleType) -> None:
        from boot_image.tree import Tree

        tree = Tree()
        tree.file("lib/modules/a.ko", b"12345")
        tree.link("bin/sh", "busybox")
        assert cpio_names(tree.cpio()) == ["lib", "lib/modules", "lib/modules/a.ko", "bin", "bin/sh", "TRAILER!!!"]

    def test_same_tree_gives_the_same_bytes(self, builder: ModuleType) -> None:
        from boot_image.tree import Tree

        def made() -> bytes:
            tree = Tree()
            tree.file("init", b"#!/bin/sh\n", 0o755)
            tree.device("dev/console", 0o600, 5, 1)
            return tree.cpio()

        assert made() == made()

    def test_folder_form_keeps_modes_and_links_and_leaves_devices_out(
        self, builder: ModuleType, tmp_path: Path
    ) -> None:
        from boot_image.tree import Tree

        tree = Tree()
        tree.file("sbin/init", b"#!/bin/sh\n", 0o755)
        tree.link("bin/sh", "busybox")
        tree.device("dev/console", 0o600, 5, 1)
        tree.write(tmp_path / "root")
        assert (tmp_path / "root/sbin/init").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "root/bin/sh").readlink() == Path("busybox")
        assert list((tmp_path / "root/dev").iterdir()) == []
        assert (tmp_path / "root/sbin").stat().st_mtime == (tmp_path / "root/sbin/init").stat().st_mtime


class TestModules:
    def test_a_module_comes_after_those_it_needs_and_once(self, builder: ModuleType, tmp_path: Path) -> None:
        from boot_image.modules import Modules

        folder = tmp_path / "lib/modules/6.1"
        module(folder, "isofs", "cdrom")
        module(folder, "cdrom", "")
        module(folder, "sr-mod", "cdrom,builtin-one")
        (folder / "modules.builtin").write_text("kernel/x/builtin-one.ko\n")
        modules, loaded = Modules.of([tmp_path]), set()
        assert modules.in_order(["isofs"], loaded) == ["cdrom", "isofs"]
        assert modules.in_order(["sr_mod"], loaded) == ["sr_mod"]

    def test_an_unknown_module_is_named(self, builder: ModuleType, tmp_path: Path) -> None:
        from boot_image.modules import Modules

        module(tmp_path / "lib/modules/6.1", "isofs", "")
        with pytest.raises(builder.BuildError, match="no module brtfs"):
            Modules.of([tmp_path]).in_order(["brtfs"], set())


class TestDisk:
    def test_partitions_fill_the_disk_without_overlap(self, builder: ModuleType, options: object) -> None:
        from boot_image.disk import table

        sector = table(options, b"\xfa" * 440, b"abcd")
        assert len(sector) == 512 and sector.endswith(b"\x55\xaa")
        fat, scratch, root = (
            (int.from_bytes(sector[at + 8 : at + 12], "little"), int.from_bytes(sector[at + 12 : at + 16], "little"))
            for at in (446, 462, 478)
        )
        assert fat[0] + fat[1] == root[0]
        assert root[0] + root[1] == scratch[0]
        assert (scratch[0] + scratch[1]) * 512 == 64 * 2**20

    def test_both_loaders_and_the_published_file_have_one_command_line(
        self, builder: ModuleType, options: object, tmp_path: Path
    ) -> None:
        from boot_image.build import published
        from boot_image.disk import boot_files

        (tmp_path / "boot.efi").write_bytes(b"MZ")
        options = replace(options, publish=(tmp_path / "a", tmp_path / "b"))
        contents = boot_files(options, b"kernel", b"initramfs")
        wanted = "console=ttyS0 quiet labyard.phone_home=http://192.0.2.1/phone-home"
        assert f"options {wanted}\n".encode() in contents["loader/entries/labyard.conf"]
        assert f"APPEND {wanted}\n".encode() in contents["syslinux.cfg"]
        files = published(options, contents)
        assert files[tmp_path / "a/cmdline"] == f"{wanted}\n".encode()
        assert files[tmp_path / "b/vmlinuz"] == b"kernel"
        assert len(files) == 6

    def test_too_small_a_disk_says_how_much_is_missing(self, builder: ModuleType, options: object) -> None:
        from boot_image.build import check_room

        with pytest.raises(builder.BuildError, match="--size-mb 64 is too small, at least 8 more"):
            check_room({"vmlinuz": bytes(60 * 2**20)}, options)


class TestCommand:
    def test_without_packages_the_way_out_is_named(
        self, builder: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert builder.main(["build", "--cache", str(tmp_path), "--output", str(tmp_path / "x.raw")]) == 1
        assert "run the fetch command first" in capsys.readouterr().err

    def test_stamp_that_is_no_json_counts_as_none(self, builder: ModuleType, tmp_path: Path) -> None:
        from boot_image.build import read_stamp

        (tmp_path / "stamp").write_text("half a st")
        assert read_stamp(tmp_path / "stamp") == {}
        (tmp_path / "stamp").write_text(json.dumps({"inputs": "1"}))
        assert read_stamp(tmp_path / "stamp") == {"inputs": "1"}


def shell(function: str, folder: Path, call: str) -> str:
    """Run one function of the second stage, with the seed's files in a folder of ours."""
    text = (FILES / "userland").read_text()
    found = re.search(rf"^{function}\(\) (?:\{{\n.*?^\}}|\{{.*?\}})$", text, re.MULTILINE | re.DOTALL)
    assert found, f"userland has no function {function}"
    body = found[0].replace("/run/seed", str(folder))
    return subprocess.run(["sh", "-c", f"instance=i-1\n{body}\n{call}"], capture_output=True, text=True).stdout.strip()


class TestSeed:
    @pytest.mark.parametrize(
        "text",
        [
            "#cloud-config\nphone_home:\n  post: all\n  tries: 10\n  url: http://192.0.2.1/a\n",
            "#cloud-config\nphone_home:\n  url: 'http://192.0.2.1/a'\nfinal_message: up\n",
            "#cloud-config\nphone_home: {post: all, url: http://192.0.2.1/a, tries: 3}\n",
            '#cloud-config\n{"x": 1}\nphone_home: {"url": "http://192.0.2.1/a"}\n',
            "#cloud-config\napt:\n  url: http://192.0.2.9/no\nphone_home:\n  # where\n  url: http://192.0.2.1/a\n",
            "#cloud-config\nphone_home:\n  url: http://192.0.2.1/a\nusers:\n  url: no\n",
        ],
    )
    def test_url_of_phone_home_is_found(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "user-data").write_text(text)
        assert shell("seed_url", tmp_path, "seed_url") == "http://192.0.2.1/a"

    def test_instance_id_in_the_url_is_filled_in(self, tmp_path: Path) -> None:
        (tmp_path / "user-data").write_text("#cloud-config\nphone_home:\n  url: http://192.0.2.1/$INSTANCE_ID/up\n")
        assert shell("seed_url", tmp_path, "seed_url") == "http://192.0.2.1/i-1/up"

    def test_other_urls_are_none_of_it(self, tmp_path: Path) -> None:
        (tmp_path / "user-data").write_text("#cloud-config\napt:\n  url: http://192.0.2.9/no\n")
        assert shell("seed_url", tmp_path, "seed_url") == ""

    @pytest.mark.parametrize(
        "text",
        [
            "instance-id: a\nlocal-hostname: ws-7\n",
            "local-hostname: 'ws-7'\n",
            '{"instance-id": "a", "local-hostname": "ws-7"}',
            '{"local-hostname": "ws-7",\n "instance-id": "a"}',
            '{"instance-id": "a",\n "local-hostname": "ws-7"}',
        ],
    )
    def test_host_name_is_read_from_yaml_and_json(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "meta-data").write_text(text)
        assert shell("field", tmp_path, f"field local-hostname {tmp_path}/meta-data") == "ws-7"

    def test_host_name_below_another_key_is_none_of_it(self, tmp_path: Path) -> None:
        (tmp_path / "user-data").write_text("#cloud-config\npower:\n  hostname: no\nhostname: cloud-9\n")
        assert shell("field", tmp_path, f"field hostname {tmp_path}/user-data") == "cloud-9"
