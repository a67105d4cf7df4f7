# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""The libvirt of a host, for the libvirt_* modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

try:
    import libvirt
except ImportError:
    libvirt = None

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

ARGUMENTS: dict[str, dict[str, Any]] = {"uri": {"type": "str", "default": "qemu:///system"}}


@contextmanager
def connected(module: AnsibleModule) -> Iterator[Any]:
    """The connection that the module's `uri` names. What libvirt refuses in the block ends the module (fail_json)."""
    if libvirt is None:
        module.fail_json(msg="python3-libvirt is not installed on this host; the role vm_host installs it")
    try:
        # Errors reach us as exceptions; by default libvirt prints them on stderr as well.
        libvirt.registerErrorHandler(lambda *_: None, None)
        yield libvirt.open(module.params["uri"])
    except libvirt.libvirtError as error:
        module.fail_json(msg=f"libvirt ({module.params['uri']}): {error}")


def remove_domain(domain: Any) -> None:
    """Switch a domain off and remove its definition with all that belongs to it; its disks stay."""
    if domain.isActive():
        domain.destroy()
    if domain.isPersistent():
        domain.undefineFlags(
            libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        )
