"""The role iscsi_target with LIO, on a kernel that has LIO: Molecule's containers have the kernel of the machine below,
which seldom does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from integration.vm.playbooks import Systemd
from labyard.testing import IscsiProbe, ProbeError

# Six hundred seconds are not enough where all is emulated and the machine has more to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PREFIX = "iqn.2025-01.lab.labyard"
ONE, OPEN = f"{PREFIX}:target-one", f"{PREFIX}:target-open"
INITIATOR = f"{PREFIX}:initiator-one"
USER, SECRET = "labyard", "correct-horse-1"
CONFIGFS = "/sys/kernel/config/target"
ROLE = {
    "iscsi_target_backend": "lio",
    "iscsi_target_portal": "127.0.0.1",
    "iscsi_target_chap_user": USER,
    "iscsi_target_chap_secret": SECRET,
    "iscsi_target_image": "/srv/image.raw",
    "iscsi_target_targets": [
        {"iqn": ONE, "initiator": INITIATOR, "overlay": True},
        {"iqn": OPEN, "image": "/srv/plain.raw"},
    ],
}


@pytest.fixture
def host(vm):
    return Systemd(vm)


@pytest.fixture
def make_probe(host):
    def run(command):
        done = host.run(command, check=False)
        return SimpleNamespace(rc=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def make(**changes):
        options = {"initiator": INITIATOR, "user": USER, "secret": SECRET} | changes
        return IscsiProbe(SimpleNamespace(run=run), "127.0.0.1", 3260, **options)

    return make


def test_the_role_serves_disks_with_lio(host, make_probe):
    host.run("for name in image plain; do yes $name | head -c 8M > /srv/$name.raw; done")
    before = host.run("sha256sum /srv/image.raw").stdout
    assert host.play("iscsi_target", **ROLE).changed > 0

    probe, stranger = make_probe(), make_probe(initiator=f"{INITIATOR}-2")
    assert probe.inquiry(ONE)["Vendor"] == "LIO-ORG"
    serial = host.run(f"cat {CONFIGFS}/core/fileio_*/{ONE.replace(':', '.')}/wwn/vpd_unit_serial").stdout
    assert probe.read(ONE, 0, 512) == (b"image\n" * 100)[:512]
    probe.write(ONE, 4096, 0xA5, 8192)
    assert probe.read(ONE, 4096, 8192) == b"\xa5" * 8192
    assert host.run("sha256sum /srv/image.raw").stdout == before, "the image behind an overlay was written"
    stranger.write(OPEN, 0, 0x5A, 512)
    assert host.run("head -c 512 /srv/plain.raw").stdout == "Z" * 512
    for refused in (make_probe(secret="wrong-secret-12"), make_probe(user="", secret=""), stranger):
        with pytest.raises(ProbeError):
            refused.inquiry(ONE)
    assert host.run("ss -Hlnt sport = :3260 | awk '{print $4}'").stdout == "127.0.0.1:3260\n"
    assert host.run("stat -c %a /etc/rtslib-fb-target/saveconfig.json").stdout == "600\n"

    assert host.play("iscsi_target", **ROLE).changed == 0
    # As after a start of the host: the unit alone has to bring them back.
    host.run("systemctl stop rtslib-fb-targetctl && ! ls -d /sys/kernel/config/target/iscsi/iqn*")
    host.run("systemctl start rtslib-fb-targetctl")
    assert probe.read(ONE, 4096, 512) == b"\xa5" * 512
    assert host.run(f"cat {CONFIGFS}/core/fileio_*/{ONE.replace(':', '.')}/wwn/vpd_unit_serial").stdout == serial

    host.play("iscsi_target", iscsi_target_state="absent")
    assert host.run(f"ls -d {CONFIGFS}/iscsi/iqn* {CONFIGFS}/core/fileio_*", check=False).stdout == ""
    assert host.run("systemctl is-enabled rtslib-fb-targetctl", check=False).stdout == "disabled\n"
    with pytest.raises(ProbeError):
        probe.inquiry(ONE)
