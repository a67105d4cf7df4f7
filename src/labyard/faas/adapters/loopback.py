"""Functions' addresses: /32 on the loopback device, told from everybody else's by their label (contract section 7)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from typing import Any

from labyard.faas.errors import FaasError


class Loopback:
    def __init__(self, device: str, label: str) -> None:
        self._device, self._label = device, label

    def apply(self, addresses: Iterable[str]) -> None:
        """Add the addresses; one that is there is fine. FaasError when one is missing afterwards."""
        wanted = list(addresses)
        lines = [f"addr add {ip}/32 dev {self._device} label {self._label}" for ip in wanted]
        said = self._batch(lines)
        if missing := set(wanted) - set(self.observed()):
            raise FaasError(f"cannot add {', '.join(sorted(missing))} to {self._device}: {said}")

    def remove(self, addresses: Iterable[str]) -> list[str]:
        """Remove those of the addresses that carry the label, each by its own prefix length. The ones that are gone."""
        seen = self.observed()
        ours = [ip for ip in addresses if ip in seen]
        self._batch([f"addr del {ip}/{seen[ip]} dev {self._device} label {self._label}" for ip in ours])
        left = self.observed()
        return [ip for ip in ours if ip not in left]

    def observed(self) -> dict[str, int]:
        """Addresses that carry the label, with their prefix lengths."""
        return {row["local"]: row["prefixlen"] for device, row in self._rows() if self._is_ours(device, row)}

    def foreign(self) -> set[str]:
        """Addresses of this machine that are not ours."""
        return {row["local"] for device, row in self._rows() if not self._is_ours(device, row)}

    def _is_ours(self, device: str, row: dict[str, Any]) -> bool:
        return device == self._device and row.get("label") == self._label

    def _rows(self) -> list[tuple[str, dict[str, Any]]]:
        links = json.loads(_ip(["-json", "-4", "addr", "show"]) or "[]")
        return [(link["ifname"], row) for link in links if link for row in link["addr_info"] if "local" in row]

    def _batch(self, lines: list[str]) -> str:
        """What `ip` said of what it could not do. The caller looks at the result: "File exists" is none."""
        if not lines:
            return ""
        done = subprocess.run(
            ["ip", "-force", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=30
        )
        return (done.stderr.strip().splitlines() or [""])[-1]


def _ip(words: list[str]) -> str:
    try:
        return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=True).stdout
    except FileNotFoundError:
        raise FaasError("the program ip (iproute2) is not installed") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise FaasError(f"ip: {error}") from None
