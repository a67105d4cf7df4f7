"""Modules of functions: what they find out by themselves is what the daemon finds out."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labyard.faas import limits
from labyard.faas.adapters.images import Images
from labyard.faas.image.archive import open_image
from labyard.faas.image.config import read_process
from labyard.testing.faas.archives import (
    Member,
    directory,
    docker_archive,
    docker_flat,
    docker_save_old,
    layer,
    oci_layout,
)

LAYERS = [layer(directory("app"), {"app/a": b"1"}), layer({"app/b": b"2"}), layer({"app/b": b"2"})]
PROCESS = {"Cmd": ["a", "b"], "Entrypoint": ["/run"], "Env": ["A=1"], "WorkingDir": "/app/.", "User": "12:34"}
SHAPES = {
    "by hand": docker_archive(LAYERS, **PROCESS),
    "empty": docker_archive(LAYERS[:1]),
    "docker save, older": docker_save_old(LAYERS, **PROCESS),
    "flat": docker_flat(LAYERS[:2], **PROCESS),
    "OCI": oci_layout(LAYERS, **PROCESS),
    "OCI, nested": oci_layout(LAYERS, nested=True, **PROCESS),
    "docker save, newer": oci_layout(LAYERS, with_docker=True, **PROCESS),
    "gzip": gzip.compress(docker_archive(LAYERS, **PROCESS)),
    "gzipped layers": docker_archive([gzip.compress(data) for data in LAYERS], **PROCESS),
}


@pytest.fixture
def faas_image(collection: None) -> Any:
    from ansible_collections.labyard.lab.plugins.module_utils import faas_image

    return faas_image


@pytest.fixture
def faas_values(collection: None) -> Any:
    from ansible_collections.labyard.lab.plugins.module_utils import faas_values

    return faas_values


@pytest.mark.parametrize("shape", SHAPES)
def test_an_archive_is_what_the_daemon_makes_of_it(faas_image: Any, tmp_path: Path, shape: str) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(SHAPES[shape])
    with path.open("rb") as file, open_image(file, tmp_path, 1 << 30, 1000) as image:
        process = read_process(image.config())
        key = Images._key(image, process)
    found = faas_image.describe(str(path))
    assert found["key"] == key
    assert (tuple(found["cmd"]), tuple(found["env"]), found["workdir"]) == (process.cmd, process.env, process.workdir)
    assert found["user"] == process.user


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no archive at all", "is not an image archive"),
        (layer({"a": b"1"}), "manifest.json is not in it"),
        (layer({"manifest.json": b"[]"}), "its documents are not in order"),
        (layer({"manifest.json": b'[{"Config": "c", "Layers": ["l"]}]', "c": b"{}"}), "l is not in it"),
        (layer({"manifest.json": b'[{"Layers": ["l"]}]'}, Member("l", type=b"2", linkname="l")), "l is not in it"),
        (SHAPES["gzip"][:200], "is not an image archive"),
    ],
)
def test_what_is_no_image_is_said_to_be_none(faas_image: Any, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "image.tar").write_bytes(content)
    with pytest.raises(faas_image.Unreadable, match=said):
        faas_image.describe(str(tmp_path / "image.tar"))


def test_limits_are_the_daemons(faas_values: Any) -> None:
    assert faas_values.LIMITS == limits.RANGES
    for text in ("256M", "64 MiB", "1g", 6 << 20):
        assert faas_values.limit_value("memory", text) == limits.parse_size(text)


@pytest.fixture
def function_module(collection: None, load_module: Any) -> Any:
    return load_module("faas_function")


def test_other_limits_make_another_version_and_other_words_for_them_do_not(function_module: Any) -> None:
    found = {"key": "k", "cmd": [], "env": [], "workdir": "/", "user": [0, 0], "limits": {"memory": "64M", "cpu": 1}}
    wanted = {**found, "user": "", "limits": {"memory": 64 << 20, "cpu": "1.0"}}
    assert not function_module.differs(found, wanted)
    assert function_module.differs(found, wanted | {"limits": {}})
    assert function_module.differs(found, wanted | {"key": "l"})
    assert function_module.differs(found, wanted | {"user": "12:34"})
    assert not function_module.differs(found | {"user": [12, 34, 56]}, wanted | {"user": "12:34"})


def test_what_a_host_lacks_is_named(load_module: Any) -> None:
    probe = load_module("container_probe")
    both, reachable = 1 << 21 | 1 << 12, [("cgroup2", "/sys/fs/cgroup", {"rw"})]
    assert probe.lacking(both, "0", reachable) == []
    (capability,) = probe.lacking(1 << 12, "0", reachable)
    assert capability.startswith("the capability CAP_SYS_ADMIN (docker run --cap-add SYS_ADMIN")
    (mount,) = probe.lacking(both, "0", [])
    assert mount.startswith("a cgroup mount (")
    (readable,) = probe.lacking(both, "0", [("cgroup", "/sys/fs/cgroup/pids", {"ro", "pids"})])
    assert readable.startswith("a cgroup mount that can be written")
    (calls,) = probe.lacking(both, "2", reachable)
    assert "seccomp" in calls


def test_groups_of_both_versions_are_told_apart(load_module: Any) -> None:
    probe = load_module("container_probe")
    first = [("cgroup", "/sys/fs/cgroup/pids", {"rw", "pids"}), ("cgroup2", "/sys/fs/cgroup/unified", {"rw"})]
    assert probe.cgroup_version(first) == 1 and probe.limitable(first) == ["pids"]
    assert probe.cgroup_version([("cgroup2", "/sys/fs/cgroup", {"rw"})]) == 2
    assert probe.cgroup_version([]) == 0


def test_an_image_that_is_not_there_is_an_error_but_in_check_mode(function_module: Any) -> None:
    said: list[str] = []
    module = SimpleNamespace(params={"image": "/nowhere.tar"}, check_mode=True, warn=said.append)
    assert function_module.described(module, {}) is None
    assert "/nowhere.tar" in said[0]
