"""`python -m labyard.testing.faas HANDLER.py IMAGE.tar`: the archive of a handler, without Docker."""

from __future__ import annotations

import sys
from pathlib import Path

from labyard.testing.faas.stock import handler_archive


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python -m labyard.testing.faas HANDLER.py IMAGE.tar")
    Path(sys.argv[2]).write_bytes(handler_archive(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
