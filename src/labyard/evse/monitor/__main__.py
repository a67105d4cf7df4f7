"""`labyard-evse-monitor`: one JSON line a second, then a summary. Exit 0: the budget held; 1: it did not; 2: bad input,
or nothing answered."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from labyard.evse.monitor.run import watch_group
from labyard.evse.monitor.sample import Reader
from labyard.evse.monitor.watch import Line, Watch
from labyard.evse.pairs import Pair
from labyard.evse.ports import EMULATOR_PORT


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="labyard-evse-monitor", description="Watch the current of a group of chargers against its budget."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--emulators", nargs="+", metavar="[NAME=]URL", help="of the group's emulators")
    which.add_argument("--pairs", type=int, metavar="N", help=f"the emulators at ports {EMULATOR_PORT} + 0…N-1 here")
    parser.add_argument("--max-current", type=float, metavar="A", help="the group's maximum; default: the controller's")
    parser.add_argument("--safety-factor", type=float, default=1.0, metavar="F", help="of --max-current (default 1)")
    parser.add_argument(
        "--controller", metavar="URL", help="its gateway: budget, joins and commitments come from there"
    )
    parser.add_argument("--user", metavar="NAME:PASSWORD", help="for the controller")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="default: until SIGINT or SIGTERM")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two passes (default 1)")
    parser.add_argument("--time-scale", type=float, default=1.0, metavar="F", help="that of the chargers (default 1)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the lines go there, the summary to stdout")
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help="serve /metrics there")
    options = parser.parse_args(words)
    if options.max_current is None and options.controller is None:
        parser.error("--max-current or --controller is needed: what is the budget?")
    for name in ("interval", "time_scale"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if options.max_current is not None and not options.max_current >= 0:
        parser.error("--max-current must be 0 or more")
    if not 0 <= options.safety_factor <= 1:
        parser.error("--safety-factor must be 0 to 1")
    if options.user is not None and ":" not in options.user:
        parser.error("--user must be NAME:PASSWORD")
    if options.metrics_port is not None and not 1 <= options.metrics_port <= 65535:
        parser.error("--metrics-port must be 1 to 65535")
    if options.pairs is not None:
        if not 1 <= options.pairs <= 64:
            parser.error("--pairs must be 1 to 64")
        options.emulators = [f"http://127.0.0.1:{EMULATOR_PORT + number}" for number in range(options.pairs)]
    return options


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    budget = None if options.max_current is None else options.max_current * options.safety_factor
    watch = Watch(budget, options.time_scale)
    with contextlib.ExitStack() as stack:
        try:
            output = stack.enter_context(options.output.open("w", encoding="utf-8")) if options.output else sys.stdout
            if options.metrics_port is not None:
                from labyard.evse.monitor.metrics import serve

                stack.enter_context(serve(options.metrics_port, watch))
        except OSError as problem:
            print(f"labyard-evse-monitor: {problem}", file=sys.stderr)
            return 2
        answered = asyncio.run(_watch(options, watch, _writer(output)))
    print(json.dumps({"summary": watch.summary()}), flush=True)
    if not answered:
        print("labyard-evse-monitor: no emulator has answered", file=sys.stderr)
        return 2
    return 1 if watch.violations else 0


async def _watch(options: argparse.Namespace, watch: Watch, write: Callable[[Line], None]) -> bool:
    user = tuple(options.user.split(":", 1)) if options.user else None
    controller = Pair("", options.controller.rstrip("/"), "", credentials=user) if options.controller else None
    reader = Reader([_emulator(text) for text in options.emulators], controller)
    follow, interval, duration = options.max_current is None, options.interval, options.duration
    return await watch_group(watch, reader, write, follow_budget=follow, interval=interval, duration=duration)


def _emulator(text: str) -> Pair:
    """Of [NAME=]URL; without a name it is called by its URL."""
    name, _, url = text.rstrip("/").rpartition("=")
    return Pair(name or url, "", url)


def _writer(output: TextIO) -> Callable[[Line], None]:
    def write(line: Line) -> None:
        output.write(json.dumps(line, separators=(",", ":")) + "\n")
        output.flush()

    return write


if __name__ == "__main__":
    sys.exit(main())
