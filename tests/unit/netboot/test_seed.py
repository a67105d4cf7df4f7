"""NoCloud seeds, read back as the guest's kernel and cloud-init read them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from labyard.netboot.adapters.seed import Seed, _files, write_seed

URL = "http://192.0.2.1:8000/api/v1/ipxe/script/TOKEN/events/boot_success"
KEYS = ("ssh-ed25519 AAAAC3Nz one@example", "ssh-rsa AAAAB3Nz two@example")


def make(user_data: str | None = None, hostname: str = "lab-1", ssh_keys: tuple[str, ...] = KEYS) -> Seed:
    return Seed("session-1-0a1b2c3d", hostname, ssh_keys, user_data, URL)


def read_back(path: Path, names: str) -> dict[str, bytes]:
    """`names`: rr_path (what Linux shows) or joliet_path."""
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    files = {}
    for name in ("meta-data", "user-data", "vendor-data"):
        content = BytesIO()
        iso.get_file_from_iso_fp(content, **{names: f"/{name}"})
        files[name] = content.getvalue()
    iso.close()
    return files


def loaded(text: bytes) -> Any:
    assert text.startswith(b"#cloud-config\n")
    return yaml.safe_load(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seed.iso"


class TestImage:
    @pytest.mark.parametrize("names", ["rr_path", "joliet_path"])
    def test_names_and_content(self, path: Path, names: str) -> None:
        write_seed(path, make())
        assert read_back(path, names) == _files(make())

    def test_label(self, path: Path) -> None:
        write_seed(path, make())
        volume = path.read_bytes()[16 * 2048 : 17 * 2048]
        assert volume[:6] == b"\x01CD001"
        assert volume[40:72].decode().rstrip() == "CIDATA"

    def test_for_its_owner_only_and_nothing_beside_it(self, path: Path) -> None:
        path.write_bytes(b"an older one")
        path.chmod(0o644)
        write_seed(path, make())
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(path.parent.iterdir()) == [path]

    def test_whole_blocks(self, path: Path) -> None:
        write_seed(path, make("#!/bin/sh\n" + "x" * 5000))
        assert path.stat().st_size % 2048 == 0

    def test_a_failure_leaves_the_older_one(self, path: Path) -> None:
        write_seed(path, make())
        before = path.read_bytes()
        with pytest.raises(ValueError, match="not YAML"):
            write_seed(path, make("#cloud-config\n{"))
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


class TestContent:
    def test_meta_data(self) -> None:
        assert yaml.safe_load(_files(make())["meta-data"]) == {
            "instance-id": "session-1-0a1b2c3d",
            "local-hostname": "lab-1",
            "public-keys": list(KEYS),
        }

    def test_without_user_data_the_machine_phones_home(self) -> None:
        phone_home = loaded(_files(make())["user-data"])["phone_home"]
        assert phone_home == {"url": URL, "post": ["instance_id", "hostname", "fqdn"], "tries": 10}

    def test_cloud_config_is_merged(self) -> None:
        user_data = "#cloud-config  \r\npackages: [jq]\nruncmd:\n- \"echo 'a: b'\"\n"
        merged = loaded(_files(make(user_data))["user-data"])
        assert merged["packages"] == ["jq"]
        assert merged["runcmd"] == ["echo 'a: b'"]
        assert merged["phone_home"]["url"] == URL

    def test_the_users_own_phone_home_wins(self) -> None:
        merged = loaded(_files(make("#cloud-config\nphone_home: {url: http://mine}\n"))["user-data"])
        assert merged == {"phone_home": {"url": "http://mine"}}

    def test_cloud_config_without_content(self) -> None:
        assert set(loaded(_files(make("#cloud-config"))["user-data"])) == {"phone_home"}

    @pytest.mark.parametrize(
        "user_data", ["#!/bin/sh\necho hello\n", "#cloud-config-archive\n- {}\n", "## template: jinja\n#cloud-config\n"]
    )
    def test_other_user_data_is_left_alone_and_the_phone_home_is_beside_it(self, user_data: str) -> None:
        files = _files(make(user_data))
        assert files["user-data"] == user_data.encode()
        assert loaded(files["vendor-data"])["phone_home"]["url"] == URL

    def test_cloud_config_that_is_no_mapping(self) -> None:
        with pytest.raises(ValueError, match="must be a YAML mapping, not a list"):
            _files(make("#cloud-config\n- a\n"))

    @given(hostname=st.text(), key=st.text())
    def test_no_text_breaks_the_yaml(self, hostname: str, key: str) -> None:
        meta = yaml.safe_load(_files(make(hostname=hostname, ssh_keys=(key,)))["meta-data"])
        assert (meta["local-hostname"], meta["public-keys"]) == (hostname, [key])
