#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: the whole declared state of tgt, in its configuration and in the running daemon."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tgt_targets
short_description: Keep a set of tgt iSCSI targets
description:
  - Writes a configuration file, from which tgt restores the targets when it restarts (it forgets them), and brings
    the running daemon in line with it, without touching a target that is already right.
  - Targets that stood in the file and are no longer wanted are removed. Targets of others and their accounts are never
    touched.
  - The disk of a target is LUN 1; LUN 0 is tgt's controller.
options:
  config:
    description: The configuration file, included by C(/etc/tgt/targets.conf).
    type: path
    required: true
  targets:
    description: The targets.
    type: list
    elements: dict
    required: true
    suboptions:
      iqn:
        description: Name of the target.
        type: str
        required: true
      backing:
        description: The file or device behind its disk.
        type: path
        required: true
      initiator:
        description: The only initiator name that may log in; empty for any.
        type: str
        default: ""
      chap_user:
        description: CHAP user; empty for none.
        type: str
        default: ""
      chap_secret:
        description: CHAP secret.
        type: str
        default: ""
  renew:
    description: Names of targets whose backing file must be opened again.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full, description: Says which targets would change.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: One disk
  labyard.lab.tgt_targets:
    config: /etc/tgt/conf.d/labyard.conf
    targets:
      - iqn: iqn.2025-01.lab.labyard:target-m1
        backing: /srv/labyard/images/boot.raw
        chap_user: labyard
        chap_secret: "{{ secret }}"
"""

RETURN = r"""
set:
  description: Names of the targets that were made or made anew.
  type: list
  elements: str
  returned: always
removed:
  description: Names of the targets that were removed.
  type: list
  elements: str
  returned: always
"""

import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# RFC 3720, 3.2.6.3.1, in the strict form that LIO takes too.
IQN = re.compile(r"iqn\.\d{4}-\d{2}\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[a-z0-9.:-]+)?")
IQN_BYTES = 223

# tgt-admin, which restores the targets when tgt restarts, adds an address rule of ALL where the configuration names no
# address, and that rule lets every initiator name in. So a target with a name rule has an address rule too, which
# nobody can meet: no packet comes from the broadcast address.
NO_ADDRESS = "255.255.255.255"


def parse_targets(text: str) -> dict[str, dict[str, Any]]:
    """Return what `tgtadm --op show --mode target` printed, by name: tid, backing of LUN 1, accounts, acls."""
    targets: dict[str, dict[str, Any]] = {}
    target: dict[str, Any] = {}
    section, lun = "", ""
    for line in text.splitlines():
        word = line.strip()
        if match := re.match(r"Target (\d+): (\S+)", line):
            target = {"tid": int(match[1]), "backing": None, "accounts": [], "acls": []}
            targets[match[2]] = target
        elif match := re.match(r"    (\w[^:]*) information:", line):
            section = match[1]
        elif match := re.match(r"        LUN: (\d+)", line):
            lun = match[1]
        elif word.startswith("Backing store path:") and lun == "1":
            target["backing"] = word.removeprefix("Backing store path:").strip()
        elif section == "Account" and word:
            target["accounts"].append(word)
        elif section == "ACL" and word:
            target["acls"].append(word)
    return targets


def stanza(target: dict[str, str]) -> str:
    """Return the target's part of the configuration file (targets.conf(5))."""
    lines = [f"<target {target['iqn']}>", f"  backing-store {target['backing']}"]
    if target["initiator"]:
        lines += [f"  initiator-address {NO_ADDRESS}", f"  initiator-name {target['initiator']}"]
    if target["chap_user"]:
        lines.append(f"  incominguser {target['chap_user']} {target['chap_secret']}")
    return "\n".join([*lines, "</target>\n"])


def parse_config(text: str) -> dict[str, str]:
    """Return the stanzas of a configuration file by target name."""
    found = re.finditer(r"^<target (\S+)>\n.*?^</target>\n", text, re.MULTILINE | re.DOTALL)
    return {match[1]: match[0] for match in found}


class Tgt:
    """The running daemon."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def admin(self, mode: str, operation: str, **options: str | int) -> str:
        # A secret must not stand in a message, and run_command would print its arguments: only say what was tried.
        command = ["tgtadm", "--lld", "iscsi", "--mode", mode, "--op", operation]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        code, out, error = self.module.run_command(command)
        if code != 0:
            self.module.fail_json(msg=f"tgtadm: {operation} {mode}: {error.strip() or out.strip()}")
        return str(out)

    def targets(self) -> dict[str, dict[str, Any]]:
        return parse_targets(self.admin("target", "show"))

    def accounts(self) -> set[str]:
        return {line.strip() for line in self.admin("account", "show").splitlines()[1:] if line.strip()}

    def remove(self, tid: int) -> None:
        self.module.run_command(
            ["tgtadm", "--lld", "iscsi", "--mode", "target", "--op", "delete", "--force", "--tid", str(tid)],
            check_rc=True,
        )

    def new(self, iqn: str) -> int:
        """Make an empty target and return its number. Others make targets too, and may take a number first."""
        command = ["tgtadm", "--lld", "iscsi", "--mode", "target", "--op", "new", "--targetname", iqn, "--tid"]
        said = ""
        for _ in range(10):
            tid = max((entry["tid"] for entry in self.targets().values()), default=0) + 1
            code, out, error = self.module.run_command([*command, str(tid)])
            if code == 0:
                return tid
            said = error.strip() or out.strip()
            if "already exists" not in said:
                break
        self.module.fail_json(msg=f"tgtadm: new target {iqn}: {said}")
        raise AssertionError  # fail_json does not return

    def add(self, target: dict[str, str]) -> None:
        tid = self.new(target["iqn"])
        self.admin("logicalunit", "new", tid=tid, lun=1, backing_store=target["backing"])
        if target["chap_user"]:
            self.admin("account", "bind", tid=tid, user=target["chap_user"])
        if target["initiator"]:
            self.admin("target", "bind", tid=tid, initiator_address=NO_ADDRESS)
            self.admin("target", "bind", tid=tid, initiator_name=target["initiator"])
        else:
            self.admin("target", "bind", tid=tid, initiator_address="ALL")


def is_right(live: dict[str, Any] | None, target: dict[str, str]) -> bool:
    """Whether the daemon serves the target as declared."""
    return live is not None and (live["backing"], live["accounts"], live["acls"]) == (
        target["backing"],
        [target["chap_user"]] if target["chap_user"] else [],
        [NO_ADDRESS, target["initiator"]] if target["initiator"] else ["ALL"],
    )


def check_names(module: AnsibleModule, targets: list[dict[str, str]]) -> None:
    for position, target in enumerate(targets):
        for field in ("iqn", "initiator"):
            name = target[field]
            if name and (not IQN.fullmatch(name) or len(name) > IQN_BYTES):
                module.fail_json(
                    msg=f"targets[{position}].{field}: {name!r} is not a valid iSCSI name; "
                    "write iqn.YYYY-MM.reversed.domain:name in lower case, without '_', at most 223 characters"
                )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "required": True},
            "targets": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "iqn": {"type": "str", "required": True},
                    "backing": {"type": "path", "required": True},
                    "initiator": {"type": "str", "default": ""},
                    "chap_user": {"type": "str", "default": ""},
                    "chap_secret": {"type": "str", "default": "", "no_log": True},
                },
            },
            "renew": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    path, targets = module.params["config"], module.params["targets"]
    check_names(module, targets)
    wanted = {target["iqn"]: target for target in targets}
    before = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as config:
            before = config.read()
    after = "".join(stanza(target) for target in targets)
    old, new = parse_config(before), parse_config(after)

    tgt = Tgt(module)
    live = tgt.targets()
    make = [
        name
        for name, target in wanted.items()
        if old.get(name) != new[name] or name in module.params["renew"] or not is_right(live.get(name), target)
    ]
    removed = [name for name in old if name not in wanted]
    if not module.check_mode:
        if before != after:
            # Not atomic_move: it would give a new file the usual mode, and this one holds secrets.
            temporary = f"{path}.new"
            with open(
                os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
            ) as config:
                config.write(after)
            os.replace(temporary, path)
        for name in removed + make:
            if name in live:
                tgt.remove(live[name]["tid"])
        # Accounts are the daemon's, not the target's, and outlive them; one whose secret may be old is made anew.
        known = tgt.accounts()
        for user, secret in {(t["chap_user"], t["chap_secret"]) for t in targets if t["chap_user"]}:
            changed_secret = f"incominguser {user} {secret}\n" not in before
            if user in known and changed_secret:
                tgt.admin("account", "delete", user=user)
            if user not in known or changed_secret:
                tgt.admin("account", "new", user=user, password=secret)
        for name in make:
            tgt.add(wanted[name])
    module.exit_json(changed=bool(make or removed or before != after), set=make, removed=removed)


if __name__ == "__main__":
    main()
