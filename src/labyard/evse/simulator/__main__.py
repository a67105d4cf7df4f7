"""`labyard-evse-sim [SCENARIO]`: prints the result as JSON. Exit 0: the budget held; 1: it did not; 2: bad input."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from labyard.evse.simulator.run import Sample, Simulation
from labyard.evse.simulator.scenario import load

DAY = Path(__file__).with_name("day.json")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="labyard-evse-sim", description="Simulate a group of chargers, no network.")
    parser.add_argument("scenario", nargs="?", type=Path, default=DAY, help="JSON; default: a day of four, with faults")
    parser.add_argument("--series", type=Path, metavar="FILE", help="JSON lines: offered and drawn current over time")
    parser.add_argument("--sample", type=float, default=60.0, metavar="SECONDS", help="between two lines (default 60)")
    options = parser.parse_args(arguments)
    if not options.sample > 0:
        parser.error("--sample must be above 0")
    try:
        scenario = load(options.scenario)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        try:
            series = stack.enter_context(options.series.open("w", encoding="utf-8")) if options.series else None
        except OSError as problem:
            print(f"--series: {problem}", file=sys.stderr)
            return 2
        simulation = Simulation(scenario, None if series is None else _writer(series), options.sample)
        result = simulation.run()
    print(json.dumps(result, indent=1))
    return 1 if result["violations"] else 0


def _writer(series: TextIO) -> Callable[[Sample], None]:
    def write(sample: Sample) -> None:
        series.write(json.dumps(sample, separators=(",", ":")) + "\n")

    return write


if __name__ == "__main__":
    sys.exit(main())
