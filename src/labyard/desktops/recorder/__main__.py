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
from labyard.desktops.recorder.program import Program
from labyard.desktops.recorder.spool import Spool


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    runtime = Path(sys.argv[1])
    os.umask(0o077)
    logging.configure()
    told = json.loads((runtime / "spec.json").read_text())
    if told["xauthority"]:
        os.environ["XAUTHORITY"] = told["xauthority"]
    spec = RecordSpec(**told["spec"])
    program = Program(spec, told["display"], runtime, Spool(Path(told["spool"]), runtime / "spool.key"))
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: program.stop())
    with Control(runtime / "control.sock", program):
        program.run()
    return 0


def run() -> NoReturn:
    """The program `labyard-desktop-recorder`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
