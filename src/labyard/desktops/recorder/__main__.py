"""python -m labyard.desktops.recorder FOLDER: records what FOLDER/spec.json says until it is told to stop.

Exit status 0: it is over; stopped as asked, or there was nothing to record, and the state says which. After any other
end it is to be started again, and continues the recording with the hole on record.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from labyard.core import logging
from labyard.desktops.adapters.agent import RecordSpec
from labyard.desktops.recorder.control import Control
from labyard.desktops.recorder.errors import NoPicture
from labyard.desktops.recorder.external import external_desktop
from labyard.desktops.recorder.program import Program
from labyard.desktops.recorder.spool import Spool
from labyard.desktops.recorder.state import FAILED, State

EXTERNAL = "external"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    runtime = Path(sys.argv[1])
    os.umask(0o077)
    logging.configure()
    told = json.loads((runtime / "spec.json").read_text())
    spec = RecordSpec(**told["spec"])
    spool = Path(told["spool"])
    if spec.target.get("kind") != EXTERNAL:
        if told["xauthority"]:
            os.environ["XAUTHORITY"] = told["xauthority"]
        record(Program(spec, told["display"], runtime, spool_of(spool, runtime)), runtime)
        return 0
    try:
        with external_desktop(spec.target, (spec.width, spec.height), runtime) as desktop:
            program = Program(spec, desktop.display, runtime, spool_of(spool, runtime))
            desktop.when_lost(lambda: program.interrupt("the RDP connection ended"))
            record(program, runtime)
            return 1 if program.interrupted else 0
    except NoPicture as error:
        if State.load(runtime / "state.json") is not None:
            raise  # it was there before: whoever runs this tries again
        State(spec.session_id, -1, state=FAILED, error=str(error)).save(runtime / "state.json")
        return 0


def spool_of(folder: Path, runtime: Path) -> Spool:
    return Spool(folder, runtime / "spool.key")


def record(program: Program, runtime: Path) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: program.stop())
    with Control(runtime / "control.sock", program):
        program.run()


def run() -> NoReturn:
    """The program `labyard-desktop-recorder`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
