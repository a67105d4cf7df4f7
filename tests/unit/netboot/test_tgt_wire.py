"""Requests to tgtd and the text of its answers, without a daemon."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.iscsi import Connection, Lun
from labyard.netboot.adapters.tgt_wire import (
    Code,
    Mode,
    Nexus,
    Op,
    Refused,
    ShownLun,
    pack,
    parse_accounts,
    parse_block,
    split,
)

IQN = "iqn.2025-01.lab.labyard:target-machine-1-0a1b2c3d"
OTHER = "iqn.2025-01.lab.labyard:target-m1"
INITIATOR = "iqn.2025-01.lab.labyard:initiator-001122334455"


def lun_text(number: int, path: str, readonly: str = "No", online: str = "Yes") -> str:
    kind = "disk" if number else "controller"
    return f"""\
        LUN: {number}
            Type: {kind}
            SCSI ID: IET     0007000{number}
            SCSI SN: beaf7{number}
            Size: 67 MB, Block size: 512
            Online: {online}
            Removable media: No
            Prevent removal: No
            Readonly: {readonly}
            SWP: No
            Thin-provisioning: No
            Backing store type: rdwr
            Backing store path: {path}
            Backing store flags: 
"""


def target_text(tid: int, iqn: str, alias: str = "none") -> str:
    return (
        f"Target {tid}: {iqn}\n    System information:\n        Driver: iscsi\n        State: ready\n"
        "    I_T nexus information:\n        I_T nexus: 12\n"
        f"            Initiator: {INITIATOR} alias: {alias}\n            Connection: 0\n"
        "                IP Address: 192.168.1.101\n"
        "    LUN information:\n"
        + lun_text(0, "None")
        + lun_text(1, "/storage/overlays/machine-1-0a1b2c3d.raw")
        + lun_text(2, "/storage/seed: one.iso", readonly="Yes", online="No")
        + "    Account information:\n        s-0a1b2c3d\n"
        f"    ACL information:\n        255.255.255.255\n        {INITIATOR}\n"
    )


class TestPack:
    def test_layout_is_that_of_tgtadm_h(self) -> None:
        request = pack(Mode.LUN, Op.NEW, {"path": "/a", "bstype": "rdwr"}, tid=7, sid=3, lun=1, cid=2)
        assert struct.unpack_from("@II", request) == (2, 0)
        assert request[8:72].rstrip(b"\0") == b"iscsi"
        assert struct.unpack_from("@IiQQI", request, 72) == (len(request), 7, 3, 1, 2)
        assert request[120:] == b"path=/a,bstype=rdwr\0"

    def test_without_parameters_is_the_bare_structure(self) -> None:
        assert len(pack(Mode.TARGET, Op.SHOW, tid=-1)) == 120

    @pytest.mark.parametrize("value", ["", "a,b", "a\nb", "a\0b"])
    def test_refuses_what_tgtd_would_cut(self, value: str) -> None:
        with pytest.raises(AdapterError, match="password") as error:
            pack(Mode.ACCOUNT, Op.NEW, {"user": "s-0a1b2c3d", "password": value})
        assert not value or value not in str(error.value)

    def test_refusal_says_what_tgtd_said(self) -> None:
        assert str(Refused(Code.TARGET_ACTIVE, "delete it")) == "tgt: delete it: this target is still active"
        assert str(Refused(99, "do it")) == "tgt: do it: error 99"


class TestShow:
    def test_target(self) -> None:
        shown = split(target_text(3, OTHER) + target_text(7, IQN), pid=42)
        assert shown.tids == {OTHER: 3, IQN: 7}
        assert shown.pid == 42
        target = shown.target(IQN)
        assert target is not None
        assert (target.tid, target.state) == (7, "ready")
        assert target.luns == [
            ShownLun(Lun(1, Path("/storage/overlays/machine-1-0a1b2c3d.raw")), True),
            ShownLun(Lun(2, Path("/storage/seed: one.iso"), readonly=True), False),
        ]
        assert target.accounts == ["s-0a1b2c3d"]
        assert target.rules == ["255.255.255.255", INITIATOR]
        assert target.nexuses == [Nexus(12, 0, Connection(INITIATOR, "192.168.1.101"))]

    def test_nothing(self) -> None:
        assert split("").tids == {}
        assert split("").target(IQN) is None

    def test_targets_having_an_account(self) -> None:
        shown = split(target_text(3, OTHER) + target_text(7, IQN))
        assert [target.tid for target in shown.having("s-0a1b2c3d")] == [3, 7]
        assert not list(shown.having("s-0a1b2c3"))
        assert not list(shown.having("255.255.255.255"))

    def test_a_name_may_not_stand_twice(self) -> None:
        forged = f"x\nTarget 9: {IQN}"
        with pytest.raises(AdapterError, match="twice"):
            split(target_text(3, OTHER, alias=forged) + target_text(7, IQN))

    def test_a_number_may_not_stand_twice(self) -> None:
        forged = "x\nTarget 7: iqn.2025-01.lab.labyard:target-machine-2-00000000"
        with pytest.raises(AdapterError, match="twice"):
            split(target_text(3, OTHER, alias=forged) + target_text(7, IQN))

    def test_nonsense_is_an_adapter_error(self) -> None:
        with pytest.raises(AdapterError, match="cannot be read"):
            parse_block(7, IQN, "    LUN information:\n        LUN: many\n")

    @given(st.text(alphabet=st.sampled_from("ILTUNX_: 0123\n"), max_size=200))
    def test_a_clients_alias_breaks_nothing(self, alias: str) -> None:
        try:
            shown = split(target_text(3, OTHER, alias=alias) + target_text(7, IQN))
            assert shown.tids[IQN] == 7
            shown.target(OTHER)
            whole = shown.target(IQN)
        except AdapterError:
            return
        assert whole == split(target_text(7, IQN)).target(IQN)


def test_accounts() -> None:
    assert parse_accounts("Account list:\n    s-0a1b2c3d\n    labyard\n") == {"s-0a1b2c3d", "labyard"}
    assert parse_accounts("") == set()
