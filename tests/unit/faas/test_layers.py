"""Layers of image archives unpacked with overlay semantics, and hostile ones refused (contract section 6)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from labyard.faas.errors import FaasError, ImageError
from labyard.faas.faasd import extract_docker_image
from labyard.testing.faas.archives import Member, directory, docker_archive, hard_link, layer, symlink

Extract = Callable[..., Path]


@pytest.fixture
def extract(tmp_path: Path) -> Extract:
    """Unpack an image of these layers; where it is."""

    def run(*layers: bytes) -> Path:
        rootfs = tmp_path / "images/test/rootfs"
        extract_docker_image(io.BytesIO(docker_archive(list(layers))), str(rootfs))
        return rootfs

    return run


def names(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*")}


class TestOrder:
    def test_one_layer(self, extract: Extract) -> None:
        tree = extract(layer({"file.txt": b"hello world"}))
        assert (tree / "file.txt").read_bytes() == b"hello world"

    def test_the_last_of_three_wins(self, extract: Extract) -> None:
        tree = extract(*(layer({"file": str(number).encode(), f"own-{number}": b""}) for number in range(3)))
        assert (tree / "file").read_bytes() == b"2"
        assert names(tree) == {"file", "own-0", "own-1", "own-2"}

    def test_directories(self, extract: Extract) -> None:
        tree = extract(layer(directory("a/"), directory("a/b/"), {"a/b/file": b"x", "c/made/for/it": b"y"}))
        assert names(tree) == {"a", "a/b", "a/b/file", "c", "c/made", "c/made/for", "c/made/for/it"}

    def test_metadata_of_repeated_directory_is_the_last_one_s(self, extract: Extract) -> None:
        tree = extract(layer(directory("a", mode=0o700)), layer(directory("a", mode=0o751, mtime=1000)))
        assert stat.S_IMODE((tree / "a").stat().st_mode) == 0o751
        assert (tree / "a").stat().st_mtime == 1000

    def test_time_of_directory_is_kept_though_files_follow(self, extract: Extract) -> None:
        tree = extract(layer(directory("a", mtime=1000)), layer({"a/file": b""}))
        assert (tree / "a").stat().st_mtime == 1000

    def test_closed_directory_takes_files_of_later_layers(self, extract: Extract) -> None:
        tree = extract(layer(directory("a", mode=0o555)), layer({"a/file": b""}))
        assert (tree / "a/file").exists()
        assert stat.S_IMODE((tree / "a").stat().st_mode) == 0o555
        (tree / "a").chmod(0o755)

    def test_mode_and_time_of_files(self, extract: Extract) -> None:
        tree = extract(layer(Member("tool", b"x", mode=0o4755, mtime=12345)))
        assert stat.S_IMODE((tree / "tool").stat().st_mode) == 0o4755
        assert (tree / "tool").stat().st_mtime == 12345

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_owners(self, extract: Extract) -> None:
        tree = extract(
            layer(Member("file", uid=1234, gid=4321), Member("link", type=tarfile.SYMTYPE, linkname="x", uid=7))
        )
        assert ((tree / "file").stat().st_uid, (tree / "file").stat().st_gid) == (1234, 4321)
        assert (tree / "link").lstat().st_uid == 7


class TestTypes:
    @pytest.mark.parametrize("first", ["file", "directory", "link", "fifo"])
    @pytest.mark.parametrize("second", ["file", "directory", "link", "fifo"])
    def test_one_takes_the_other_s_place(self, extract: Extract, first: str, second: str) -> None:
        kinds: Mapping[str, tuple[Member, int]] = {
            "file": (Member("x", b"1"), stat.S_IFREG),
            "directory": (directory("x"), stat.S_IFDIR),
            "link": (symlink("x", "y"), stat.S_IFLNK),
            "fifo": (Member("x", type=tarfile.FIFOTYPE), stat.S_IFIFO),
        }
        tree = extract(layer({"y/kept": b""}, kinds[first][0]), layer(kinds[second][0]))
        assert stat.S_IFMT((tree / "x").lstat().st_mode) == kinds[second][1]
        assert (tree / "y/kept").exists()

    def test_file_in_the_place_of_a_full_directory(self, extract: Extract) -> None:
        tree = extract(layer({"x/a/b": b"", "x/c": b""}), layer({"x": b"file"}))
        assert names(tree) == {"x"}

    def test_directory_where_a_link_was_leaves_the_target(self, extract: Extract) -> None:
        tree = extract(layer({"real/a": b""}, symlink("x", "real")), layer(directory("x"), {"x/b": b""}))
        assert names(tree) == {"real", "real/a", "x", "x/b"}

    def test_writing_through_a_link_of_a_layer_below(self, extract: Extract) -> None:
        tree = extract(layer({"usr/bin/a": b""}, symlink("bin", "usr/bin")), layer({"bin/b": b""}))
        assert (tree / "bin").is_symlink()
        assert (tree / "usr/bin/b").exists()

    def test_absolute_link_is_kept_and_leads_into_the_tree(self, extract: Extract) -> None:
        tree = extract(layer(directory("run"), symlink("var/run", "/run")), layer({"var/run/file": b""}))
        assert str((tree / "var/run").readlink()) == "/run"
        assert (tree / "run/file").exists()

    def test_hard_links(self, extract: Extract) -> None:
        tree = extract(
            layer({"low": b"low"}, symlink("link", "low")),
            layer({"a/file": b"x"}, hard_link("b/same", "a/file"), hard_link("from-below", "/low")),
            layer(hard_link("of-link", "link"), {"low": b"changed"}),
        )
        assert (tree / "a/file").stat().st_ino == (tree / "b/same").stat().st_ino
        assert (tree / "of-link").is_symlink()
        # A file that is replaced is a new one: its other names keep what they had.
        assert (tree / "from-below").read_bytes() == b"low"
        assert (tree / "low").read_bytes() == b"changed"

    def test_devices_are_skipped(self, extract: Extract, capsys: pytest.CaptureFixture[str]) -> None:
        tree = extract(
            layer(Member("dev/null", type=tarfile.CHRTYPE), Member("dev/sda", type=tarfile.BLKTYPE), {"a": b""})
        )
        assert names(tree) == {"a"}
        assert "2 device nodes skipped" in capsys.readouterr().out

    def test_absolute_and_dotted_names(self, extract: Extract) -> None:
        tree = extract(layer(directory("./"), {"./a": b"", "/b": b"", "c/../d": b"", ".//e": b""}))
        assert names(tree) == {"a", "b", "d", "e"}


class TestWhiteouts:
    def test_file_and_directory(self, extract: Extract) -> None:
        tree = extract(
            layer({"keep": b"", "gone": b"", "dir/a/b": b"", "dir/c": b""}), layer({".wh.gone": b"", "dir/.wh.a": b""})
        )
        assert names(tree) == {"keep", "dir", "dir/c"}

    @pytest.mark.parametrize("first", [True, False])
    def test_only_layers_below_are_hidden(self, extract: Extract, first: bool) -> None:
        hide: list[Mapping[str, bytes]] = [{"dir/.wh.x": b""}, {"dir/x/new": b""}]
        tree = extract(layer({"dir/x/old": b"", "dir/y": b""}), layer(*(hide if first else hide[::-1])))
        assert names(tree) == {"dir", "dir/y", "dir/x", "dir/x/new"}

    @pytest.mark.parametrize("first", [True, False])
    def test_opaque_directory(self, extract: Extract, first: bool) -> None:
        members: list[Mapping[str, bytes]] = [{"dir/.wh..wh..opq": b""}, {"dir/new": b"", "dir/sub/new": b""}]
        tree = extract(
            layer({"dir/old": b"", "dir/sub/old": b"", "out": b""}), layer(*(members if first else members[::-1]))
        )
        assert names(tree) == {"out", "dir", "dir/new", "dir/sub", "dir/sub/new"}

    def test_file_replaced_in_the_same_layer(self, extract: Extract) -> None:
        tree = extract(layer({"x": b"old"}), layer({"x": b"new", ".wh.x": b""}))
        assert (tree / "x").read_bytes() == b"new"

    def test_what_is_not_there(self, extract: Extract) -> None:
        assert names(extract(layer({"a": b""}), layer({".wh.b": b"", "no/dir/.wh.c": b"", "q/.wh..wh..opq": b""}))) == {
            "a"
        }

    def test_other_marks_are_skipped(self, extract: Extract) -> None:
        assert names(extract(layer({".wh..wh.aufs": b"", ".wh..wh.plnk/x": b"", "a": b""}))) >= {"a"}

    def test_through_a_link(self, extract: Extract) -> None:
        tree = extract(layer({"real/a": b"", "real/b": b""}, symlink("link", "real")), layer({"link/.wh.a": b""}))
        assert names(tree) == {"real", "real/b", "link"}

    @pytest.mark.parametrize("name", [".wh.", ".wh...", ".wh..", "a/.wh.."])
    def test_invalid(self, extract: Extract, name: str) -> None:
        with pytest.raises(ImageError, match="not a valid whiteout"):
            extract(layer({"a/b": b""}), layer({name: b""}))

    def test_directory_made_anew_has_nothing_of_the_hidden_one(self, extract: Extract) -> None:
        tree = extract(layer(directory("d", mode=0o700)), layer({".wh.d": b""}), layer({"d/file": b""}))
        assert stat.S_IMODE((tree / "d").stat().st_mode) == 0o755


class TestHostile:
    @pytest.mark.parametrize(
        "members",
        [
            [{"../outside": b"x"}],
            [{"a/../../outside": b"x"}],
            [symlink("out", "../../../.."), {"out/outside": b"x"}],
            [symlink("a", "b"), symlink("b", "../../.."), {"a/outside": b"x"}],
            [symlink("out", "/nowhere/in/the/tree"), {"out/outside": b"x"}],
            [symlink("loop", "loop"), {"loop/x": b"x"}],
            [{"file": b""}, {"file/x": b""}],
            [hard_link("stolen", "../../../../../../../../etc/passwd")],
            [symlink("etc", "../../../../../../../../etc"), hard_link("stolen", "etc/passwd")],
            [hard_link("stolen", "/etc/passwd")],
            [directory("d"), hard_link("h", "d")],
            [hard_link("h", "")],
            [symlink("out", "../../.."), {"out/.wh.images": b""}],
            [{"a" * 5000: b""}],
            [{"a/" * 2049: b""}],
            [Member("huge", type=tarfile.REGTYPE, pax_headers={"path": "x\0y"})],
        ],
    )
    def test_refused_and_nothing_is_left(self, extract: Extract, tmp_path: Path, members: list[object]) -> None:
        with pytest.raises(ImageError, match=r"^Invalid Docker image: "):
            extract(layer(*members))  # type: ignore[arg-type]
        assert names(tmp_path) == {"images", "images/test"}

    def test_what_was_there_is_untouched(self, extract: Extract) -> None:
        tree = extract(layer({"good": b""}))
        with pytest.raises(ImageError):
            extract(layer({"../bad": b""}))
        assert names(tree) == {"good"}
        assert names(extract(layer({"better": b""}))) == {"better"}

    @pytest.mark.parametrize(
        "data",
        [
            b"no tar at all" * 100,
            layer({"a": b"x" * 5000})[:2000],
            layer({"a": b"x" * 512})[:1024] + b"not a header" * 50,
            b"",
        ],
    )
    def test_broken_layers(self, extract: Extract, data: bytes) -> None:
        with pytest.raises(ImageError, match=r"^Invalid Docker image: "):
            extract(data)

    def test_enormous_header_is_not_read(self, extract: Extract) -> None:
        """An extended header that says it has a gigabyte."""
        member = Member("x", type=tarfile.XHDTYPE)
        member.info.size = 1 << 30
        block = member.info.tobuf(tarfile.USTAR_FORMAT)
        with pytest.raises(ImageError, match="header is too large"):
            extract(block + bytes(1 << 20))

    def test_sparse_bomb(self, extract: Extract) -> None:
        records = [b"22 GNU.sparse.major=1\n", b"22 GNU.sparse.minor=0\n", b"37 GNU.sparse.realsize=99999999999999\n"]
        pax = b"".join(records)
        header = Member("h", pax, type=tarfile.XHDTYPE).info.tobuf(tarfile.USTAR_FORMAT)
        data = b"0\n".ljust(512, b"\0")
        file = Member("s", data).info.tobuf(tarfile.USTAR_FORMAT)
        with pytest.raises(ImageError, match=r"unpacks to more than|invalid header"):  # the second by 3.13
            extract(header + pax.ljust(512, b"\0") + file + data + bytes(1024))

    def test_too_many_layers(self, extract: Extract) -> None:
        with pytest.raises(ImageError, match="257 layers"):
            extract(*[layer({"a": b""})] * 257)


class TestCompression:
    @pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
    def test_by_content(self, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
        inner = docker_archive([layer({"a": b"x" * 5000})])
        plain = layer({"a": b"x" * 5000})
        assert plain in inner
        for number, data in enumerate((compress(inner), self._with_layer(compress(plain)))):
            rootfs = tmp_path / str(number)
            extract_docker_image(io.BytesIO(data), str(rootfs))
            assert (rootfs / "a").read_bytes() == b"x" * 5000

    @staticmethod
    def _with_layer(data: bytes) -> bytes:
        return layer({"l": data, "c": b"{}", "manifest.json": b'[{"Config": "c", "Layers": ["l"]}]'})

    def test_broken(self, tmp_path: Path) -> None:
        data = bytearray(gzip.compress(layer({"a": os.urandom(5000)})))
        data[2000:2100] = bytes(100)
        for bad in (bytes(data), bytes(data[:3000]), gzip.compress(b"x")[:-4]):
            with pytest.raises(ImageError):
                extract_docker_image(io.BytesIO(self._with_layer(bad)), str(tmp_path / "r"))
        assert names(tmp_path) == set()

    @pytest.mark.skipif(not shutil.which("zstd"), reason="needs the program zstd")
    def test_zstd(self, tmp_path: Path) -> None:
        data = subprocess.run(["zstd", "-q"], input=layer({"a": b"x"}), capture_output=True, check=True).stdout
        extract_docker_image(io.BytesIO(self._with_layer(data)), str(tmp_path / "r"))
        assert (tmp_path / "r/a").read_bytes() == b"x"
        with pytest.raises(FaasError):
            extract_docker_image(io.BytesIO(self._with_layer(data[:-8])), str(tmp_path / "s"))

    def test_broken_zstd_where_python_has_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Python 3.14's decoder has an error of its own, which is no OSError."""

        class ZstdError(Exception):
            pass

        class ZstdFile(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise ZstdError("Unable to decompress Zstandard data")

        module = ModuleType("compression.zstd")
        module.__dict__.update(ZstdFile=lambda _: ZstdFile(), ZstdError=ZstdError)
        monkeypatch.setitem(sys.modules, "compression", ModuleType("compression"))
        sys.modules["compression"].__dict__["zstd"] = module
        broken = b"\x28\xb5\x2f\xfd..."
        for data in (broken, self._with_layer(broken)):
            with pytest.raises(ImageError, match="Unable to decompress"):
                extract_docker_image(io.BytesIO(data), str(tmp_path / "r"))

    def test_name_that_looks_like_a_compression(self, tmp_path: Path) -> None:
        plain = layer({"BZh9": b"x", "BZhang/file": b"y"})
        extract_docker_image(io.BytesIO(self._with_layer(plain)), str(tmp_path / "r"))
        assert names(tmp_path / "r") == {"BZh9", "BZhang", "BZhang/file"}

    def test_zstd_without_a_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda _: None)
        with pytest.raises(ImageError, match="Invalid Docker image: unsupported layer compression zstd"):
            extract_docker_image(io.BytesIO(self._with_layer(b"\x28\xb5\x2f\xfd...")), str(tmp_path / "r"))
