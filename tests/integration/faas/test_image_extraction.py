"""Image archives: layers become a tree, and the configuration a command. No VM, no root (contract sections 5 and 6)."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from helpers.images import FORMS, create_test_image
from helpers.waiting import wait_for_condition

from labyard.faas import faasd
from labyard.faas.errors import ImageError
from labyard.testing.faas import archives
from labyard.testing.faas.archives import Member, directory, hard_link, symlink

pytestmark = pytest.mark.unit

HELLO = {"file.txt": b"hello world"}


@pytest.fixture
def extract(temp_dir):
    """Makes an image of layers, unpacks it, and gives the tree's folder."""

    def do(*layers, **options):
        image_tar = create_test_image(temp_dir, layers, **options)
        rootfs_path = temp_dir / "rootfs"
        with image_tar.open("rb") as f:
            faasd.extract_docker_image(f, str(rootfs_path))
        return rootfs_path

    return do


@pytest.fixture
def entrypoint(temp_dir):
    """The command of an image with this configuration."""

    def get(**options):
        with create_test_image(temp_dir, [HELLO], **options).open("rb") as f:
            return faasd.get_image_entrypoint(f)

    return get


class TestLayers:
    def test_extract_simple_image(self, temp_dir):
        """The requirement document's example, as it stands there."""
        image_tar = create_test_image(temp_dir, layers=[{"file.txt": b"hello world"}], cmd=["echo", "hello"])

        rootfs_path = temp_dir / "rootfs"
        with open(image_tar, "rb") as f:  # noqa: PTH123
            faasd.extract_docker_image(f, str(rootfs_path))

        assert rootfs_path.exists()
        assert (rootfs_path / "file.txt").read_bytes() == b"hello world"

    def test_last_of_three_layers_wins(self, extract):
        tree = extract({"a": b"1", "b": b"1", "c": b"1"}, {"b": b"2", "c": b"2"}, {"c": b"3"})
        assert {name: (tree / name).read_bytes() for name in "abc"} == {"a": b"1", "b": b"2", "c": b"3"}

    def test_directory_structure(self, extract):
        tree = extract({"app/handler.py": b"1", "usr/lib/deep/er/file": b"2"}, [directory("empty/")])
        found = {str(path.relative_to(tree)) for path in tree.rglob("*")}
        # The mount point of the socket is every image's.
        assert found - {"control.sock"} == {
            *("app", "app/handler.py", "empty"),
            *("usr", "usr/lib", "usr/lib/deep", "usr/lib/deep/er", "usr/lib/deep/er/file"),
        }

    def test_whiteout_hides_only_what_is_below(self, extract):
        tree = extract({"etc/old": b"1", "etc/kept": b"1"}, {"etc/new": b"2", "etc/.wh.old": b"", "etc/.wh.new": b""})
        assert sorted(path.name for path in (tree / "etc").iterdir()) == ["kept", "new"]

    def test_opaque_directory_hides_all_that_is_below(self, extract):
        tree = extract({"etc/old": b"1", "etc/sub/old": b"1"}, {"etc/new": b"2", "etc/.wh..wh..opq": b""})
        assert [path.name for path in (tree / "etc").iterdir()] == ["new"]

    def test_hard_link_to_a_file_of_a_layer_below(self, extract):
        tree = extract({"bin/busybox": b"program"}, [hard_link("bin/sh", "bin/busybox")])
        assert (tree / "bin/sh").read_bytes() == b"program"
        assert (tree / "bin/sh").samefile(tree / "bin/busybox")

    def test_absolute_links_are_kept(self, extract):
        """A Debian base is full of them; they are meant from inside the container."""
        tree = extract([symlink("etc/alternatives/awk", "/usr/bin/mawk")])
        assert str((tree / "etc/alternatives/awk").readlink()) == "/usr/bin/mawk"

    @pytest.mark.parametrize("form", FORMS)
    def test_every_form_of_archive(self, extract, form):
        tree = extract({"a": b"1", "gone": b"1"}, {"a": b"2", ".wh.gone": b""}, form=form)
        assert (tree / "a").read_bytes() == b"2"
        assert not (tree / "gone").exists()


class TestHostileImages:
    """Refused whole: nothing is written outside, and what was there before stays."""

    @pytest.mark.parametrize(
        "members",
        [
            [{"../escaped": b"x"}],
            [{"a/../../escaped": b"x"}],
            [symlink("out", ".."), {"out/escaped": b"x"}],
            [hard_link("passwd", "../../../etc/passwd")],
            [hard_link("link", "not/there")],
            [{".wh...": b""}],
        ],
        ids=["parent", "through a folder", "through a link", "hard link out", "hard link to nothing", "whiteout of .."],
    )
    def test_refused(self, extract, temp_dir, members):
        (temp_dir / "rootfs").mkdir()
        (temp_dir / "rootfs/before").touch()
        with pytest.raises(ImageError, match=r"^Invalid Docker image: "):
            extract(members)
        assert {path.name for path in temp_dir.iterdir()} == {"image.tar", "rootfs"}
        assert [path.name for path in (temp_dir / "rootfs").iterdir()] == ["before"]

    def test_device_nodes_are_left_out(self, extract):
        tree = extract([Member("dev/mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1), HELLO])
        assert not (tree / "dev/mem").exists()
        assert (tree / "file.txt").exists()


class TestCommand:
    def test_cmd_only(self, entrypoint):
        assert entrypoint(cmd=["python3", "/app/handler.py"]) == ["python3", "/app/handler.py"]

    def test_entrypoint_with_cmd(self, entrypoint):
        assert entrypoint(entrypoint=["python3"], cmd=["/app/handler.py"]) == ["python3", "/app/handler.py"]

    def test_entrypoint_only(self, entrypoint):
        assert entrypoint(entrypoint=["/handler"]) == ["/handler"]

    def test_neither(self, entrypoint):
        assert entrypoint() == ["/bin/sh"]

    @pytest.mark.parametrize("form", FORMS)
    def test_of_every_form(self, entrypoint, form):
        assert entrypoint(entrypoint=["python3"], cmd=["-V"], form=form) == ["python3", "-V"]


class TestManifest:
    def test_missing(self, temp_dir):
        archive = io.BytesIO(archives.tar({"layer0.tar": archives.layer(HELLO)}))
        for use in (faasd.get_image_entrypoint, lambda f: faasd.extract_docker_image(f, str(temp_dir / "rootfs"))):
            with pytest.raises(ImageError, match=r"^Invalid Docker image: manifest\.json not found$"):
                use(archive)
        assert not (temp_dir / "rootfs").exists()

    def test_first_of_several_images(self):
        files = {f"c{number}": archives.config([], Cmd=[f"{number}"]) for number in range(2)}
        manifest = [{"Config": name, "RepoTags": None, "Layers": []} for name in files]
        archive = archives.tar(files, {"manifest.json": json.dumps(manifest).encode()})
        assert faasd.get_image_entrypoint(io.BytesIO(archive)) == ["0"]

    @pytest.mark.parametrize("manifest", [b"not JSON", b"{}", b"[]", b'[{"Layers": ["not-there.tar"], "Config": "c"}]'])
    def test_of_no_use(self, temp_dir, manifest):
        archive = archives.tar({"c": archives.config([]), "manifest.json": manifest})
        with pytest.raises(ImageError, match=r"^Invalid Docker image: "):
            faasd.extract_docker_image(io.BytesIO(archive), str(temp_dir / "rootfs"))


class TestRegistry:
    def test_persistence(self, mock_registry_file):
        """What older daemons wrote is read; what is written is read again, and looks as before."""
        registry = faasd.Registry(mock_registry_file)
        registry.load()
        function = registry.get("handler1")
        assert (function.ip, list(function.cmd)) == ("10.0.0.10", ["python3", "/app/handler.py"])
        registry.remove("handler2")
        registry.save()
        text = mock_registry_file.read_text()
        entry = json.loads(text)["handler1"]
        assert list(entry)[:3] == ["ip", "rootfs", "cmd"]
        assert entry["rootfs"] == "/var/lib/faasd/images/handler1/rootfs"
        assert text.startswith('{\n  "handler1": {\n')

        again = faasd.Registry(mock_registry_file)
        again.load()
        assert again.all() == registry.all()

    def test_no_file_is_no_functions(self, temp_dir):
        registry = faasd.Registry(temp_dir / "registry.json")
        registry.load()
        assert registry.all() == {}


class TestOwnTools:
    """What the tests themselves rely on."""

    def test_waiting_ends_early_and_says_what_was_missing(self):
        looks = iter([False, False, True])
        wait_for_condition(lambda: next(looks), timeout=60, interval=0)
        with pytest.raises(AssertionError, match="no bread"):
            wait_for_condition(lambda: False, timeout=0, error_msg="no bread")
