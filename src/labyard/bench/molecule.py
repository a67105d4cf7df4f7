"""Testing a role by itself: seconds of `molecule test`, from creating its hosts to removing them."""

from __future__ import annotations

import statistics

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.command import clean_environment, run

# Roles of one daemon or one set of files: what most roles of a lab are like.
SCENARIOS = ("dhcp", "tftp", "radvd", "ipxe", "boot_http")
ATTEMPTS = 3
TIMEOUT = 300


def _images(bench: Bench) -> set[str]:
    """The images that Labyard has made."""
    command = ["docker", "images", "--quiet", "--no-trunc", "--filter", "label=labyard"]
    done = run(command, folder=bench.checkout, environment=clean_environment(venv=True), timeout=30)
    return set(done.output.split())


def _test(bench: Bench, scenario: str) -> float:
    """Seconds of one scenario. A run that had to bake an image was the warm-up: it is repeated, and not counted."""
    environment = clean_environment(venv=True) | {"ANSIBLE_CONFIG": str(bench.checkout / "ansible.cfg")}
    command = ["scripts/with-mitogen", "1", "molecule", "test", "-s", scenario]
    for _ in range(ATTEMPTS):
        before = _images(bench)
        done = run(command, folder=bench.checkout, environment=environment, timeout=TIMEOUT)
        if _images(bench) <= before:
            bench.say(f"molecule test -s {scenario}: {done.seconds:.1f} s")
            return done.seconds
        bench.say(f"molecule test -s {scenario}: {done.seconds:.1f} s, with baking its image; once more")
    raise MeasureError(f"molecule test -s {scenario} bakes an image each time")


def role_median(bench: Bench) -> float:
    """Median over the scenarios, in seconds."""
    return statistics.median(_test(bench, scenario) for scenario in SCENARIOS)


MEASURES: dict[str, Measure] = {"molecule.role_median_s": role_median}
