"""All the shapes that image archives have, and what an image says of its process (contract sections 5 and 6)."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labyard.faas.errors import ImageError
from labyard.faas.faasd import extract_docker_image, get_image_entrypoint
from labyard.faas.image.config import find_user, read_process
from labyard.faas.image.tree import Tree
from labyard.testing.faas import archives
from labyard.testing.faas.archives import config, docker_archive, layer, oci_layout, symlink, tar

LAYERS = [layer({"a": b"1"}), layer({"b": b"2"})]
SHAPES: dict[str, Callable[..., bytes]] = {
    "by hand": docker_archive,
    "docker save, older": archives.docker_save_old,
    "copying tools": archives.docker_flat,
    "OCI": oci_layout,
    "OCI, nested index": lambda layers, **inner: oci_layout(layers, nested=True, **inner),
    "docker save, newer": lambda layers, **inner: oci_layout(layers, with_docker=True, **inner),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(tmp_path: Path, shape: str) -> None:
    data = SHAPES[shape](LAYERS, Entrypoint=["python3"], Cmd=["/app/handler.py"])
    file = io.BytesIO(data)
    extract_docker_image(file, str(tmp_path / "rootfs"))
    # Both may be called one after the other on one file.
    assert get_image_entrypoint(file) == ["python3", "/app/handler.py"]
    assert (tmp_path / "rootfs/a").read_bytes() == b"1"
    assert (tmp_path / "rootfs/b").read_bytes() == b"2"


def test_repeated_layer_as_a_link(tmp_path: Path) -> None:
    data = archives.docker_save_old([LAYERS[0], layer({".wh.a": b""}), LAYERS[0]])
    extract_docker_image(io.BytesIO(data), str(tmp_path / "rootfs"))
    assert (tmp_path / "rootfs/a").exists()


def test_file_and_pipe(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive(LAYERS))
    with (tmp_path / "image.tar").open("rb") as file:
        extract_docker_image(file, str(tmp_path / "one"))
    with (tmp_path / "image.tar").open("rb", buffering=0) as file:

        class Pipe(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def read(self, size: int = -1) -> bytes:
                return file.read(min(size, 1000) if size >= 0 else -1)

        extract_docker_image(Pipe(), str(tmp_path / "two"))  # type: ignore[arg-type]
    (tmp_path / "image.tar.gz").write_bytes(gzip.compress(docker_archive(LAYERS)))
    with gzip.open(tmp_path / "image.tar.gz") as opened:  # its descriptor has other bytes than it
        extract_docker_image(opened, str(tmp_path / "three"))  # type: ignore[arg-type]
    assert (tmp_path / "one/a").exists()
    assert (tmp_path / "two/b").exists()
    assert (tmp_path / "three/b").exists()


def test_first_of_several_images(tmp_path: Path) -> None:
    entries = [{"Config": f"c{n}", "RepoTags": None, "Layers": [f"l{n}"], "Parent": "x"} for n in range(2)]
    files = {"c0": config([], Cmd=["first"]), "l0": LAYERS[0], "c1": config([], Cmd=["second"]), "l1": LAYERS[1]}
    assert get_image_entrypoint(io.BytesIO(tar(files, {"manifest.json": json.dumps(entries).encode()}))) == ["first"]


@pytest.mark.parametrize("function", ["extract", "entrypoint"])
def test_no_manifest(tmp_path: Path, function: str) -> None:
    file = io.BytesIO(tar({"layer0.tar": LAYERS[0]}))
    with pytest.raises(ImageError) as caught:
        if function == "extract":
            extract_docker_image(file, str(tmp_path / "rootfs"))
        else:
            get_image_entrypoint(file)
    assert str(caught.value) == "Invalid Docker image: manifest.json not found"
    assert caught.value.status == 400


def test_digests_that_are_none_are_not_looked_at(tmp_path: Path) -> None:
    document = json.dumps({"config": {}, "rootfs": {"diff_ids": ["sha256:layer0"]}}).encode()
    manifest = b'[{"Config": "c", "Layers": ["layer0.tar"]}]'
    data = tar({"c": document, "manifest.json": manifest, "layer0.tar": LAYERS[0]})
    extract_docker_image(io.BytesIO(data), str(tmp_path / "rootfs"))


def docker(**changes: object) -> bytes:
    entry = {"Config": "c", "Layers": ["l"], **changes}
    return tar({"c": config(LAYERS[:1]), "l": LAYERS[0], "manifest.json": json.dumps([entry]).encode()})


def oci_with(change: Callable[[dict[str, bytes]], None]) -> bytes:
    """An OCI layout, changed after it was made."""
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(oci_layout(LAYERS))) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}  # type: ignore[union-attr]
    change(files)
    return tar(files)


def corrupt_a_layer(files: dict[str, bytes]) -> None:
    name = next(name for name, data in files.items() if data[:2] == b"\x1f\x8b")
    files[name] = gzip.compress(layer({"evil": b""}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (docker(Layers=["missing"]), "'missing' is not in the archive"),
        (docker(Layers="l"), "Layers is not a list of names"),
        (docker(Layers=None), "Layers is not a list of names"),
        (docker(Config=7), "Config is not a name"),
        (docker(Layers=["c"]), "an archive cannot be read"),
        (tar({"manifest.json": b"{}"}), "'manifest.json' is not a JSON list"),
        (tar({"manifest.json": b"[]"}), "manifest.json names no image"),
        (tar({"manifest.json": b"[" * 100000}), "'manifest.json' is not JSON"),
        (tar({"manifest.json": b" " * (9 << 20)}), "'manifest.json' is too large"),
        (tar({"index.json": b'{"manifests": []}'}), "its index names no manifest"),
        (tar({"index.json": b'{"manifests": [{}]}'}), "a descriptor has no digest"),
        (tar({"index.json": b'{"manifests": [{"digest": "sha256:../../etc/passwd"}]}'}), "a descriptor has no digest"),
        (tar(symlink("manifest.json", "manifest.json")), "is a link to itself"),
        (oci_with(corrupt_a_layer), "the digest of 'blobs/sha256/"),
    ],
)
def test_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        extract_docker_image(io.BytesIO(data), str(tmp_path / "rootfs"))
    assert str(caught.value).startswith("Invalid Docker image: ")
    assert reason in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_diff_id(tmp_path: Path) -> None:
    data = tar({"c": config(LAYERS[1:]), "l": LAYERS[0], "manifest.json": b'[{"Config": "c", "Layers": ["l"]}]'})
    with pytest.raises(ImageError, match="layer 1 is not the one"):
        extract_docker_image(io.BytesIO(data), str(tmp_path / "rootfs"))


def test_wrong_number_of_diff_ids(tmp_path: Path) -> None:
    data = tar({"c": config(LAYERS), "l": LAYERS[0], "manifest.json": b'[{"Config": "c", "Layers": ["l"]}]'})
    with pytest.raises(ImageError, match="names 2 layers, and it has 1"):
        extract_docker_image(io.BytesIO(data), str(tmp_path / "rootfs"))


class TestProcess:
    @pytest.mark.parametrize(
        ("inner", "command"),
        [
            ({"Cmd": ["echo", "hello"]}, ["echo", "hello"]),
            ({"Entrypoint": ["python3"], "Cmd": ["/app.py"]}, ["python3", "/app.py"]),
            ({"Entrypoint": ["/run"]}, ["/run"]),
            ({"Entrypoint": None, "Cmd": None}, ["/bin/sh"]),
            ({}, ["/bin/sh"]),
            ({"Cmd": ["/bin/sh", "-c", "echo hello"]}, ["/bin/sh", "-c", "echo hello"]),
        ],
    )
    def test_command(self, inner: dict[str, object], command: list[str]) -> None:
        assert get_image_entrypoint(io.BytesIO(docker_archive(LAYERS, **inner))) == command

    def test_environment(self) -> None:
        assert read_process({"config": {"Env": ["A=1"]}}).env == (
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "A=1",
        )
        assert read_process({"config": {"Env": ["PATH=/x", "A=b=c"]}}).env == ("PATH=/x", "A=b=c")

    @pytest.mark.parametrize(
        ("given", "directory"), [("", "/"), ("/app", "/app"), ("app/", "/app"), ("/a/../../b", "/b"), ("//x", "/x")]
    )
    def test_directory(self, given: str, directory: str) -> None:
        assert read_process({"config": {"WorkingDir": given}}).workdir == directory

    @pytest.mark.parametrize(
        "inner",
        [{"Cmd": "sh"}, {"Cmd": [1]}, {"Env": ["A"]}, {"Env": ["A=\0"]}, {"User": 7}, {"WorkingDir": ["/"]}, []],
    )
    def test_refused(self, inner: object) -> None:
        if inner:
            with pytest.raises(ImageError):
                read_process({"config": inner})
        else:
            assert read_process({"config": inner}).cmd == ("/bin/sh",)

    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ("", ((0, 0), ())),
            ("0", ((0, 0), ())),
            ("app", ((1000, 1001), (50, 60))),
            ("1000", ((1000, 1001), (50, 60))),
            ("app:audio", ((1000, 50), ())),
            ("app:77", ((1000, 77), ())),
            ("4000", ((4000, 0), ())),
            ("4000:4001", ((4000, 4001), ())),
        ],
    )
    def test_user(self, tmp_path: Path, user: str, expected: object) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/passwd").write_text("# comment\nroot:x:0:0::/:\napp:x:1000:1001::/:/bin/sh\nbroken\n")
        (tmp_path / "etc/group").write_text("root:x:0:\naudio:x:50:app,other\nvideo:x:60:app\nother:x:70:other\n")
        assert find_user(Tree(tmp_path), user) == expected

    @pytest.mark.parametrize("user", ["nobody-here", "0:no-group", "99999999999", "-1", "a b"])
    def test_unknown_user(self, tmp_path: Path, user: str) -> None:
        with pytest.raises(ImageError):
            find_user(Tree(tmp_path), user)

    def test_accounts_are_not_read_from_outside(self, tmp_path: Path) -> None:
        (tmp_path / "etc").symlink_to("../../../../../etc")
        with pytest.raises(ImageError, match="'daemon' is not in its /etc/passwd"):
            find_user(Tree(tmp_path), "daemon")
