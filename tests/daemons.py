"""Units of a lab's hosts that tests kill."""

from __future__ import annotations

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until


def process(host: LabHost, unit: str) -> int:
    """The unit's main process; 0 when it has none."""
    return int(host.check("systemctl show --property MainPID --value %s", unit))


def kill(host: LabHost, unit: str) -> None:
    """With SIGKILL; returns when its successor runs."""
    before = process(host, unit)
    host.check("systemctl kill --kill-whom main --signal KILL %s", unit)

    def is_back() -> bool:
        # The process first: systemd calls the unit active until it has noticed.
        return process(host, unit) not in (0, before) and host.run("systemctl is-active --quiet %s", unit).rc == 0

    wait_until(
        is_back, lambda: f"{unit} is back:\n{host.run('journalctl --no-pager --lines 20 --unit %s', unit).stdout}"
    )
