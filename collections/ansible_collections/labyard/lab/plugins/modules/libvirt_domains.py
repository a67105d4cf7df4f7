#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a set of libvirt domains, from their definitions."""

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_domains
short_description: Keep a set of libvirt domains defined
description:
  - Defines the given domains, and undefines (stopping them first) domains of this set that are no longer given.
    Domains without this set's mark are never touched.
  - A definition is compared with the one given last, of which a hash is kept in the domain's metadata, since libvirt
    adds to what it is given. A running domain takes a changed definition at its next start.
  - community.libvirt.virt defines in check mode, and takes a task for each domain.
options:
  set:
    description: Name of the set; the mark by which its domains are known.
    type: str
    required: true
  domains:
    description: Definition (domain XML, without metadata) by name of the domain.
    type: dict
    required: true
extends_documentation_fragment: [labyard.lab.libvirt]
attributes:
  check_mode: {support: full, description: Says which domains would change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Machines
  labyard.lab.libvirt_domains:
    set: machines
    domains:
      m1: "{{ lookup('ansible.builtin.template', 'machine.xml.j2') }}"
"""

RETURN = r"""
defined:
  description: Names of the domains that were defined.
  type: list
  elements: str
  returned: always
removed:
  description: Names of the domains that were removed.
  type: list
  elements: str
  returned: always
"""

import hashlib
from typing import Any
from xml.etree import ElementTree

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils.libvirt_host import (
    ARGUMENTS,
    connected,
    libvirt,
    remove_domain,
)

NAMESPACE = "https://labyard.example/domain/1"


def mark(xml: str, owner: str, uuid: str | None) -> tuple[str, str]:
    """Return the definition with this set's mark in its metadata, and the hash the mark holds.

    The uuid is that of a domain to change; without it libvirt would take the definition for a second one.
    """
    digest = hashlib.sha256(xml.encode()).hexdigest()
    domain = ElementTree.fromstring(xml)
    if uuid is not None:
        ElementTree.SubElement(domain, "uuid").text = uuid
    metadata = ElementTree.SubElement(domain, "metadata")
    ElementTree.SubElement(metadata, f"{{{NAMESPACE}}}set", name=owner, hash=digest)
    return ElementTree.tostring(domain, encoding="unicode"), digest


def recorded(domain: Any, owner: str) -> str | None:
    """Return the hash in the domain's mark; None when the domain is not of this set."""
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
    except libvirt.libvirtError:
        return None
    element = ElementTree.fromstring(text)
    return element.get("hash") if element.get("name") == owner else None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "set": {"type": "str", "required": True},
            "domains": {"type": "dict", "required": True},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    owner, wanted = module.params["set"], module.params["domains"]
    defined, removed = [], []
    with connected(module) as connection:
        live = {domain.name(): domain for domain in connection.listAllDomains()}
        ours = {name: found for name, domain in live.items() if (found := recorded(domain, owner)) is not None}
        for name, xml in sorted(wanted.items()):
            try:
                marked, digest = mark(xml, owner, live[name].UUIDString() if name in live else None)
            except ElementTree.ParseError as error:
                module.fail_json(msg=f"domains: the definition of {name} is no XML: {error}")
            if ours.get(name) == digest:
                continue
            if name in live and name not in ours:
                module.fail_json(msg=f"domains: {name} is a domain of somebody else on this host; choose another name")
            defined.append(name)
            if not module.check_mode:
                connection.defineXML(marked)
        for name in sorted(set(ours) - set(wanted)):
            removed.append(name)
            if not module.check_mode:
                remove_domain(live[name])
    module.exit_json(changed=bool(defined or removed), defined=defined, removed=removed)


if __name__ == "__main__":
    main()
