"""Fails when a role's argument_specs and defaults differ, or a role lacks what every role has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

NEEDED = ["defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml"]


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def mistakes(role: Path) -> list[str]:
    """What is wrong with one role."""
    found = [f"{role}/{name} is missing" for name in NEEDED if not (role / name).exists()]
    found += [f"molecule/{role.name}/molecule.yml is missing" for _ in [0] if not Path("molecule", role.name).is_dir()]
    checks = Path(f"tests/roles/test_{role.name}.py")
    found += [f"{checks} is missing" for _ in [0] if not checks.exists()]
    if found:
        return found
    defaults = load(role / "defaults/main.yml")
    options = load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    found += [f"{role}: default {name} is not in the specs" for name in sorted(set(defaults) - set(options))]
    for name, spec in sorted(options.items()):
        if not name.startswith(f"{role.name}_"):
            found.append(f"{role}: {name} lacks the role's prefix")
        if name not in defaults:
            found.append(f"{role}: option {name} has no default")
        elif "default" in spec and spec["default"] != defaults[name]:
            found.append(f"{role}: {name} is {defaults[name]!r} by default, the specs say {spec['default']!r}")
    return found


def main() -> int:
    found = [mistake for role in sorted(Path("roles").iterdir()) for mistake in mistakes(role)]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
