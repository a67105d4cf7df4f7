"""`labyard-evse-gateway` and `python -m labyard.evse.gateway`."""

from __future__ import annotations

import sys


def main() -> None:
    # structlog loads rich, for colours, if it is there: a tenth of a second and megabytes that nobody sees here.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from labyard.evse.gateway import program

    program.main()


if __name__ == "__main__":
    main()
