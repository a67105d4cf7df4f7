#!/usr/bin/env python3
"""Inventory of a scenario: two container hosts, named after the scenario so that scenarios can run side by side.

The subject gets the role under test, the probe has protocol clients. A script and not YAML, because Mitogen takes
`ansible_host` as it stands, without rendering it.
"""

import json
import os
import sys

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "none").replace("_", "-")


def container(name: str, last_octet: int) -> dict[str, object]:
    return {
        "ansible_host": f"labyard-molecule-{SCENARIO}-{name}",
        "lab_address": f"10.77.{{{{ molecule_octet }}}}.{last_octet}",
    }


INVENTORY = {
    "controller": {"hosts": ["localhost"]},
    "lab_containers": {"hosts": ["subject", "probe"]},
    "probes": {"hosts": ["probe"]},
    "_meta": {
        "hostvars": {
            "localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
            "subject": container("subject", 2),
            "probe": container("probe", 3) | {"lab_roles": ["probe"]},
        }
    },
}

if __name__ == "__main__":
    print(json.dumps(INVENTORY))
