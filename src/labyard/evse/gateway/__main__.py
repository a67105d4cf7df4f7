"""`labyard-evse-gateway` and `python -m labyard.evse.gateway`."""

from __future__ import annotations

import signal
import sys

# Before anything else loads structlog: it spares it what a service never uses.
from labyard.core import logging


def main() -> None:
    # Until the server has its own: a stop while all this is loaded is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from labyard.evse.gateway import program

    logging.configure(program.log_level())
    program.main()


if __name__ == "__main__":
    main()
