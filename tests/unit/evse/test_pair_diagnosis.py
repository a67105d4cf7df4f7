"""labyard.testing.evse: messages whose cause a test cannot bring about."""

from __future__ import annotations

from pathlib import Path

import docker.errors
import pytest

from labyard.testing.evse import PairError, Settings, containers, diagnosis
from labyard.testing.evse.settings import IMAGE


class Engine:
    """One that has no image and cannot get any."""

    class Images:
        def get(self, name: str) -> None:
            raise docker.errors.ImageNotFound("no such image")

        def pull(self, name: str) -> None:
            raise docker.errors.APIError("network is unreachable")

    images = Images()

    def ping(self) -> None: ...


def test_a_failed_pull_names_the_image_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docker.from_env", Engine)
    with pytest.raises(PairError) as caught:
        containers.Containers(IMAGE).start(0, Settings().ports(0))
    assert str(caught.value).startswith(f"Failed to pull image {IMAGE}: network is unreachable.")
    assert f"docker pull {IMAGE}" in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "said", "start"),
    [
        ("/tmp", 'E open("/dev/ptmx"): Permission denied', "PTY permission denied: /tmp/rapi_pty_0 did not appear"),
        ("/nowhere", "", "PTY permission denied: /nowhere/rapi_pty_0 did not appear"),
        ("/tmp", "", "/tmp/rapi_pty_0 did not appear within 5 s of starting socat. socat said: nothing"),
    ],
)
def test_no_terminal(folder: str, said: str, start: str) -> None:
    text = diagnosis.no_bridge(Path(folder) / "rapi_pty_0", 5, said)
    assert text.startswith(start)
    assert ("chmod 1777" in text) == start.startswith("PTY permission denied")


@pytest.mark.parametrize(
    ("program", "way_out"), [("/usr/sbin/avahi-daemon", "systemctl start"), (None, "apt-get install avahi-daemon")]
)
def test_no_mdns_daemon(monkeypatch: pytest.MonkeyPatch, program: str | None, way_out: str) -> None:
    monkeypatch.setattr("shutil.which", lambda name: program)
    monkeypatch.setattr("sys.platform", "linux")
    text = diagnosis.mdns_missing(native=True, exists=lambda: False)
    assert text.startswith("mDNS not available") and way_out in text
    assert diagnosis.mdns_missing(native=True, exists=lambda: True) == ""
    assert diagnosis.mdns_missing(native=False, exists=lambda: False) == "", "ours brings its responder along"


def test_who_was_not_found_is_said() -> None:
    text = diagnosis.not_discovered("http://a", ["b.local:8001"], [], 3, native=False)
    assert text.startswith("Peer discovery timed out: after 3 s http://a has found [], not ['b.local:8001'].")
    assert "avahi-browse -a -r" in text
