"""labyard-evse-emulator; or python -m labyard.evse.emulator. `--help` lists the flags."""

from __future__ import annotations

import os
import sys
from logging import getLogger

import uvloop

from labyard.core import logging  # before anything loads structlog: it does so faster
from labyard.evse.emulator import config
from labyard.evse.emulator.app import serve


def main() -> None:
    """Exits 0 after SIGTERM, 2 when the configuration is wrong or a port is taken."""
    logging.configure()
    try:
        settings = config.load(sys.argv[1:], os.environ, getLogger(__package__).warning)
        uvloop.run(serve(settings))
    except config.ConfigError as error:
        print(f"labyard-evse-emulator: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
