"""The parts of our Ansible modules that decide, without a daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SHOWN = """Target 3: iqn.2025-01.lab.labyard:target-m1
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 1
            Initiator: iqn.2025-01.lab.labyard:initiator-1 alias: none
            Connection: 0
                IP Address: 10.77.1.1
    LUN information:
        LUN: 0
            Type: controller
            Backing store path: None
        LUN: 1
            Type: disk
            Backing store path: /srv/m1.raw
    Account information:
        labyard
    ACL information:
        255.255.255.255
        iqn.2025-01.lab.labyard:initiator-1
Target 4: iqn.2025-01.lab.labyard:open
    LUN information:
        LUN: 1
            Backing store path: /srv/open.raw
    Account information:
    ACL information:
        ALL
"""

TARGET = {
    "iqn": "iqn.2025-01.lab.labyard:target-m1",
    "backing": "/srv/m1.raw",
    "initiator": "iqn.2025-01.lab.labyard:initiator-1",
    "chap_user": "labyard",
    "chap_secret": "secretsecret",
}


def test_tgt_targets_reads_what_the_daemon_shows(load_module: Any) -> None:
    live = load_module("tgt_targets").parse_targets(SHOWN)
    assert live == {
        "iqn.2025-01.lab.labyard:target-m1": {
            "tid": 3,
            "backing": "/srv/m1.raw",
            "accounts": ["labyard"],
            "acls": ["255.255.255.255", "iqn.2025-01.lab.labyard:initiator-1"],
        },
        "iqn.2025-01.lab.labyard:open": {"tid": 4, "backing": "/srv/open.raw", "accounts": [], "acls": ["ALL"]},
    }


@pytest.mark.parametrize("change", [{}, {"backing": "/other"}, {"initiator": ""}, {"chap_user": ""}])
def test_tgt_targets_sees_drift(load_module: Any, change: dict[str, str]) -> None:
    module = load_module("tgt_targets")
    live = module.parse_targets(SHOWN)[TARGET["iqn"]]
    assert module.is_right(live, TARGET | change) == (change == {})
    assert not module.is_right(None, TARGET)


def test_tgt_configuration_is_read_back(load_module: Any) -> None:
    module = load_module("tgt_targets")
    text = module.stanza(TARGET) + module.stanza(
        TARGET | {"iqn": "iqn.2025-01.lab:b", "chap_user": "", "initiator": ""}
    )
    found = module.parse_config(text)
    assert list(found) == [TARGET["iqn"], "iqn.2025-01.lab:b"]
    assert "incominguser labyard secretsecret" in found[TARGET["iqn"]]
    assert "incominguser" not in found["iqn.2025-01.lab:b"]


@pytest.mark.parametrize(
    "name", ["iqn.2025-01.lab.x:a_b", "IQN.2025-01.lab.x:a", "iqn.25-01.lab:x", "iqn.2025-01.lab:x y"]
)
def test_bad_iscsi_names_are_no_names(load_module: Any, name: str) -> None:
    assert not load_module("tgt_targets").IQN.fullmatch(name)


def make_role(folder: Path, name: str, install: str) -> None:
    (folder / name / "tasks").mkdir(parents=True)
    (folder / name / "tasks/install.yml").write_text(install)
    (folder / name / "tasks/configure.yml").write_text("- name: x")


def test_bake_tag_follows_the_install_step_only(load_module: Any, tmp_path: Path) -> None:
    tag = load_module("bake_plan").bake_tag
    make_role(tmp_path, "dhcp", "one")
    make_role(tmp_path, "tftp", "two")
    first = tag(str(tmp_path), "base", ["dhcp", "tftp"])
    (tmp_path / "dhcp/tasks/configure.yml").write_text("- name: y")
    assert tag(str(tmp_path), "base", ["dhcp", "tftp"]) == first
    (tmp_path / "dhcp/tasks/install.yml").write_text("three")
    assert tag(str(tmp_path), "base", ["dhcp", "tftp"]) != first
    assert tag(str(tmp_path), "other base", ["dhcp", "tftp"]) != tag(str(tmp_path), "base", ["dhcp", "tftp"])
    with pytest.raises(KeyError, match="nothing"):
        tag(str(tmp_path), "base", ["nothing"])


def test_domain_mark_keeps_the_uuid_of_the_domain_it_changes(collection: None, load_module: Any) -> None:
    mark = load_module("libvirt_domains").mark
    xml, digest = mark("<domain><name>m1</name></domain>", "set", None)
    assert "<uuid>" not in xml and digest in xml and 'name="set"' in xml
    again, same = mark("<domain><name>m1</name></domain>", "set", "abc")
    assert "<uuid>abc</uuid>" in again and same == digest


LISTENERS = """LISTEN 0      128          0.0.0.0:8000      0.0.0.0:*    users:(("python",pid=153,fd=9))
LISTEN 0      4096       127.0.0.1:8080      0.0.0.0:*    users:(("docker-proxy",pid=7,fd=4),("x",pid=8,fd=4))
LISTEN 0      511             [::]:80           [::]:*    users:(("nginx",pid=5,fd=6),("nginx",pid=6,fd=6))
LISTEN 0      128    10.0.0.1%eth0:5000      0.0.0.0:*
"""


def test_port_owners_reads_who_listens(load_module: Any) -> None:
    assert load_module("port_owners").parse_listeners(LISTENERS) == {
        8000: ("python", 153),
        8080: ("docker-proxy", 7),
        80: ("nginx", 5),
        5000: ("a process that cannot be seen", 0),
    }
