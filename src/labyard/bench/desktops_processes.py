"""Figures of remote desktops that tests measure, with processes of this machine: each test records what it found."""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.command import clean_environment, run

FOLDER = "tests/integration/desktops"
SERVICE = f"{FOLDER}/measure_desktops.py"
RECORDINGS = f"{FOLDER}/measure_recordings.py"
KILLED = f"{FOLDER}/test_recording_chain.py::test_everything_is_killed_in_turn"
SECONDS = 300  # that a test may take


@cache
def recorded(bench: Bench, test: str) -> dict[str, float]:
    """Runs one test, which records what it measured. MeasureError when it fails or is skipped."""
    with tempfile.TemporaryDirectory(prefix="labyard-bench-") as folder:
        file = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={file}", test]
        environment = {
            name: value for name, value in clean_environment(venv=True).items() if not name.startswith("LABYARD_")
        }
        run(command, folder=bench.checkout, environment=environment, timeout=SECONDS)
        case = ElementTree.parse(file).find(".//testcase")
    skipped = None if case is None else case.find("skipped")
    if case is None or skipped is not None:
        raise MeasureError(f"{test} did not run: {'' if skipped is None else skipped.get('message')}")
    properties = {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}
    if said := properties.pop("say", ""):
        bench.say(said)
    return {name: float(value) for name, value in properties.items()}


def _of(test: str, value: str) -> Measure:
    return lambda bench: recorded(bench, test)[value]


# What each is, and its unit: figure.py.
MEASURES: dict[str, Measure] = {
    "desktops.api_p95_ms": _of(f"{SERVICE}::test_reads", "p95_ms"),
    "desktops.usage_p95_ms": _of(f"{SERVICE}::test_usage", "p95_ms"),
    "desktops.lists_per_s": _of(f"{SERVICE}::test_load", "lists_per_s"),
    "desktops.success_pct": _of(f"{SERVICE}::test_load", "normal_pct"),
    "desktops.success_double_pct": _of(f"{SERVICE}::test_load", "double_pct"),
    "desktops.session_create_ms": _of(f"{SERVICE}::test_changes", "session_ms"),
    "desktops.node_ops_ms": _of(f"{SERVICE}::test_changes", "node_ms"),
    "desktops.poot_ops_ms": _of(f"{SERVICE}::test_changes", "poot_ms"),
    "desktops.poot_batch_ms": _of(f"{SERVICE}::test_poot", "batch_ms"),
    "desktops.payouts_per_s": _of(f"{SERVICE}::test_poot", "payouts_per_s"),
    "desktops.session_start_ms": _of(f"{RECORDINGS}::test_sessions", "start_ms"),
    "desktops.session_stop_ms": _of(f"{RECORDINGS}::test_sessions", "stop_ms"),
    "desktops.capture_drop_pct": _of(f"{RECORDINGS}::test_three", "drop_pct"),
    "desktops.end_to_end_s": _of(f"{RECORDINGS}::test_three", "end_to_end_s"),
    "desktops.recordings": _of(f"{RECORDINGS}::test_ten", "whole"),
    "desktops.chunk_commit_ms": _of(f"{RECORDINGS}::test_ten", "commit_ms"),
    "desktops.chunks_per_min": _of(f"{RECORDINGS}::test_intake", "a_minute"),
    "desktops.lost_chunks": _of(KILLED, "lost_chunks"),
}
