"""`labyard-evse-gateway` and `python -m labyard.evse.gateway`."""

from __future__ import annotations

# Before anything else loads structlog: it spares it what a service never uses.
from labyard.core import logging


def main() -> None:
    from labyard.evse.gateway import program

    logging.configure(program.log_level())
    program.main()


if __name__ == "__main__":
    main()
