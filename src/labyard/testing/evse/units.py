"""Pairs as systemd units, which the role evse_pair has deployed on this host."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from labyard.testing.evse.diagnosis import PairError
from labyard.testing.evse.settings import Settings

STORAGE = Path("/var/lib/labyard/evse")
SETTINGS = Path("/etc/labyard/evse")
PARTS = ("bridge", "emulator", "gateway")
SECONDS = 60  # bound of a systemctl call
LOG_LINES = 40


class UnitBackend:
    """Only pairs that the role has deployed. Storage is emptied before each start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def clean(self, offsets: list[int]) -> None:
        for offset in offsets:
            if not (SETTINGS / f"pair-{offset}.env").exists():
                raise PairError(
                    f"pair {offset} is not deployed on this host ({SETTINGS}/pair-{offset}.env is not there): raise "
                    "evse_pair_count and apply the role evse_pair"
                )
        self.stop(offsets)
        for offset in offsets:
            for entry in (STORAGE / f"pair-{offset}").iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def start(self, offset: int) -> None:
        _systemctl("start", "--no-block", f"labyard-evse-pair@{offset}.target")

    def stop(self, offsets: list[int]) -> None:
        """The services by name, too, so that it returns when they have ended."""
        units = [unit for offset in offsets for unit in (f"labyard-evse-pair@{offset}.target", *_services(offset))]
        if units:
            _systemctl("stop", *units)

    def restart_native(self, offset: int) -> None:
        _systemctl("restart", f"labyard-evse-gateway@{offset}.service")

    def ended(self, part: str, offset: int) -> bool:
        """Never for good: systemd starts it again."""
        return False

    def log(self, part: str, offset: int) -> str:
        words = ["journalctl", "--quiet", "--no-pager", "--lines", str(LOG_LINES), "--unit"]
        return _run([*words, f"labyard-evse-{part}@{offset}.service"], check=False)


def _services(offset: int) -> list[str]:
    return [f"labyard-evse-{part}@{offset}.service" for part in PARTS]


def _systemctl(*words: str) -> None:
    _run(["systemctl", *words], check=True)


def _run(words: list[str], check: bool) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    if check and done.returncode != 0:
        raise PairError(f"{' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout
