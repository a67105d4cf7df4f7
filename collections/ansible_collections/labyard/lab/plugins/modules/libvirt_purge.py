#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: what the VM manager made in libvirt, removed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_purge
short_description: Remove the domains and the network that the VM manager made in libvirt
description:
  - Removes domains with the service's mark and this prefix, running ones too, and the network if its bridge is this
    one. Domains and networks of others are never touched. Files stay.
  - community.libvirt.virt and virt_net remove in check mode, need lxml on the host, and take two tasks for each domain.
options:
  domain_prefix:
    description: What names of the domains begin with.
    type: str
    required: true
  network:
    description: Name of the network.
    type: str
    required: true
  bridge:
    description: Name of its bridge.
    type: str
    required: true
extends_documentation_fragment: [labyard.lab.libvirt]
attributes:
  check_mode: {support: full, description: Says what would be removed.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Remove what the VM manager made
  labyard.lab.libvirt_purge:
    domain_prefix: labyard-
    network: labyard-vman
    bridge: br-vman
"""

RETURN = r"""
removed:
  description: Names of the domains, and of the network, that were removed.
  type: list
  elements: str
  returned: always
"""

from typing import Any
from xml.etree import ElementTree

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.libvirt_host import (
    ARGUMENTS,
    connected,
    libvirt,
    remove_domain,
)

# The mark that labyard.vms puts into the metadata of its domains.
NAMESPACE = "urn:labyard:vms:1"


def is_marked(domain: Any) -> bool:
    try:
        domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return False
        raise
    return True


def bridge_of(network: Any) -> str:
    bridge = ElementTree.fromstring(network.XMLDesc()).find("bridge")
    return "" if bridge is None else bridge.get("name", "")


def remove_network(network: Any) -> None:
    if network.isActive():
        network.destroy()
    if network.isPersistent():
        network.undefine()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "domain_prefix": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "bridge": {"type": "str", "required": True},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    given = module.params
    removed = []
    with connected(module) as connection:
        for domain in connection.listAllDomains():
            if domain.name().startswith(given["domain_prefix"]) and is_marked(domain):
                removed.append(domain.name())
                if not module.check_mode:
                    remove_domain(domain)
        for network in connection.listAllNetworks():
            if network.name() == given["network"] and bridge_of(network) == given["bridge"]:
                removed.append(network.name())
                if not module.check_mode:
                    remove_network(network)
    module.exit_json(changed=bool(removed), removed=sorted(removed))


if __name__ == "__main__":
    main()
