# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Jinja tests on addresses, for roles that must not depend on netaddr."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable


def holds_address(network: str, address: str) -> bool:
    """Whether the network (CIDR) holds the address; an empty or malformed address is in no network."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False


class TestModule:
    """Found by Ansible under this name."""

    def tests(self) -> dict[str, Callable[[str, str], bool]]:
        return {"holds_address": holds_address}
