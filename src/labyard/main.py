"""The program `labyard`. `labyard vm` works where Labyard is installed without what a lab needs."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line. Without `labyard[control]` all but `vm` ends with a word on how to get it."""
    if sys.argv[1:2] == ["vm"]:
        from labyard.testing.vm.cli import app as vm

        vm(args=sys.argv[2:], prog_name="labyard vm")
    missing = [name for name in ("ansible", "httpx") if not find_spec(name)]
    if missing:
        sys.exit(
            f"labyard: {', '.join(missing)} not installed: pip install 'labyard[control]'. `labyard vm` works without."
        )
    from labyard.cli import app

    app()
