"""Building the lab: from nothing, from its images, and when there is nothing to do. All figures in seconds.

`lab.cold_s` starts from a fresh clone, an empty Python package cache, and no image, container or network of the
lab. It leaves in place the distribution packages that are installed on this machine (the engine and what
scripts/bootstrap installs) and the distribution's own package lists and cache; nothing of Labyard.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from pathlib import Path

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.command import clean_environment, run

PAIRS = 2
NOOP_TIMEOUT = 600
DESTROY_TIMEOUT = 180
WARM_TIMEOUT = 900
COLD_TIMEOUT = 1800

_RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s", re.MULTILINE)


def changes(output: str) -> dict[str, int]:
    """The number of changed tasks by host, from a playbook's recap. MeasureError when there is no recap."""
    found = {host: int(changed) for host, changed in _RECAP.findall(output)}
    if not found:
        raise MeasureError("ansible-playbook printed no recap")
    return found


def changed_tasks(output: str) -> str:
    """Names of the tasks that changed something, for the reader of a reason."""
    parts = re.split(r"^TASK \[(.*?)\] \*+$", output, flags=re.MULTILINE)
    named = zip(parts[1::2], parts[2::2], strict=True)
    return "; ".join(task for task, said in named if re.search(r"^changed: ", said, re.MULTILINE))


def _playbook(bench: Bench, label: str, settings: Path, mitogen: str) -> float:
    """Seconds of site.yml with an ansible.cfg, when nothing is to change. MeasureError when something does change."""
    environment = clean_environment(venv=True) | {"ANSIBLE_CONFIG": str(settings)}
    inventory = str(bench.lab.inventory.path)
    command = ["scripts/with-mitogen", mitogen, "ansible-playbook", "-i", inventory, "site.yml"]
    for again in (True, False):
        done = run(command, folder=bench.checkout, environment=environment, timeout=NOOP_TIMEOUT)
        changed = {host: count for host, count in changes(done.output).items() if count}
        if not changed:
            break
        if not again:
            tasks = changed_tasks(done.output)
            raise MeasureError(f"with {label} a second run changed something: {changed} ({tasks})")
        # The lab may have been behind the checkout; only a second change shows a role that is not idempotent.
        bench.say(f"the lab was not up to date: {changed} ({changed_tasks(done.output)}); once more")
    bench.say(f"{label}: {done.seconds:.1f} s")
    return done.seconds


def _ours(bench: Bench) -> float:
    """Seconds of the playbook as the Makefile runs it."""
    return _playbook(bench, "our settings", bench.checkout / "ansible.cfg", "1")


def _stock(bench: Bench) -> float:
    """Seconds of the same with Ansible's own defaults, told only where roles and collections are."""
    with tempfile.TemporaryDirectory(prefix="labyard-bench-") as folder:
        settings = Path(folder, "ansible.cfg")
        settings.write_text(
            f"[defaults]\nroles_path = {bench.checkout / 'roles'}\n"
            f"collections_path = {bench.checkout / 'collections'}\n"
        )
        return _playbook(bench, "stock settings", settings, "0")


def noop(bench: Bench) -> float:
    """Seconds of the playbook when every host is as it should be already."""
    return _ours(bench)


def speedup(bench: Bench) -> float:
    """How many times longer the same takes with stock settings: ratio of medians of runs taken in turn."""
    stock, ours = [], []
    for _ in range(PAIRS):
        stock.append(_stock(bench))
        ours.append(_ours(bench))
    return statistics.median(stock) / statistics.median(ours)


def _make(folder: Path, target: str, timeout: float, extra: dict[str, str] | None = None) -> float:
    """Seconds that a target of the Makefile takes."""
    environment = clean_environment(venv=False) | (extra or {})
    return run(["make", target], folder=folder, environment=environment, timeout=timeout).seconds


def _require_default(bench: Bench) -> None:
    """`make` builds the lab of the Makefile's own inventory; another one must not be destroyed in its place."""
    if bench.inventory.resolve() != (bench.checkout / "inventories/local").resolve():
        raise MeasureError("building is measured with inventories/local only; leave --inventory out")


def warm(bench: Bench) -> float:
    """Seconds of `make lab` after `make destroy`: packages and images are there, nothing else of the lab is."""
    _require_default(bench)
    bench.say("make destroy")
    _make(bench.checkout, "destroy", DESTROY_TIMEOUT)
    bench.say("make lab")
    return _make(bench.checkout, "lab", WARM_TIMEOUT)


def cold(bench: Bench) -> float:
    """Seconds of `make lab` in a fresh clone, with a virtual environment of its own and no image of the lab."""
    _require_default(bench)
    with tempfile.TemporaryDirectory(prefix="labyard-bench-") as folder:
        clone = Path(folder, "clone")
        environment = clean_environment(venv=False)
        command = ["git", "clone", "--quiet", str(bench.checkout), str(clone)]
        run(command, folder=bench.checkout, environment=environment, timeout=120)
        bench.say("make purge (only what is committed is measured)")
        _make(bench.checkout, "purge", DESTROY_TIMEOUT)
        bench.say("make lab in a fresh clone")
        caches = {"UV_CACHE_DIR": f"{folder}/uv", "PIP_CACHE_DIR": f"{folder}/pip"}
        try:
            seconds = _make(clone, "lab", COLD_TIMEOUT, caches)
        finally:
            # The clone goes, and its secrets with it: the lab is this checkout's again, made from the same images.
            bench.say("make lab in this checkout (not counted)")
            _make(bench.checkout, "lab", WARM_TIMEOUT)
        return seconds


MEASURES: dict[str, Measure] = {
    "lab.cold_s": cold,
    "lab.warm_s": warm,
    "lab.noop_s": noop,
    "lab.speedup_vs_stock": speedup,
}
