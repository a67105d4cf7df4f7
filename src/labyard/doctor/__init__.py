"""The doctor: can a lab be built on this machine? It does in small what the lab will do.

It says about each failure what to do.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType

from rich.console import Console

from labyard.doctor.checks import SYSTEM_CHECKS
from labyard.doctor.functions import FUNCTION_CHECKS
from labyard.doctor.inventory import settings_for
from labyard.doctor.model import Check, CheckResult, Settings, Status, exit_code
from labyard.doctor.probes import PROBES
from labyard.doctor.report import as_json, closing_sentence, print_report
from labyard.doctor.runner import run_all
from labyard.doctor.work import sweep_folders

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "Settings",
    "Status",
    "as_json",
    "closing_sentence",
    "exit_code",
    "main",
    "print_report",
    "run_checks",
    "settings_for",
]

# In the order of the report.
CHECKS: tuple[Check, ...] = (*SYSTEM_CHECKS, *PROBES, *FUNCTION_CHECKS)


def run_checks(settings: Settings) -> list[CheckResult]:
    """Runs every check and returns the results in the order of the report. Leaves nothing behind.

    Never raises for a failing check. Raises KeyboardInterrupt after cleaning up when the user presses Ctrl-C.
    """
    sweep_folders()
    console = Console(stderr=True)
    if not console.is_terminal:
        return run_all(CHECKS, settings)
    with console.status("looking at this machine") as status:
        return run_all(CHECKS, settings, lambda names: status.update(f"waiting for: {', '.join(names)}"))


def main(json_output: bool, inventory: Path) -> int:
    """Checks this machine for the lab of an inventory and prints the result on stdout.

    Returns the exit status: 0 when nothing failed, 1 otherwise, 130 when interrupted (Ctrl-C or SIGTERM).
    """
    previous = signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    try:
        results = run_checks(settings_for(inventory))
    except KeyboardInterrupt:
        print("labyard doctor: interrupted; what it had started is taken down", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    if json_output:
        print(as_json(results))
    else:
        console = Console()
        print_report(results, console)
        console.print(f"{len(results)} checks in {time.monotonic() - started:.1f} s", style="dim")
    return exit_code(results)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
