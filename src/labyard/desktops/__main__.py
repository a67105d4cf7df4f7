"""`python -m labyard.desktops`: the service, with its settings from DESKTOPS_* variables (--help lists them)."""

import sys

from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from labyard.core.serve import serve
from labyard.desktops.app import build
from labyard.desktops.https import secure
from labyard.desktops.keyring import KeyFileError
from labyard.desktops.settings import Settings


def _build(settings: Settings) -> FastAPI:
    try:
        return build(settings)
    except KeyFileError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OperationalError as error:
        # Not 2: systemd tries again until it is there.
        print(f"The database does not answer: {str(error.orig).splitlines()[0]}", file=sys.stderr)
        sys.exit(3)


# Many threads read, pull and measure beside the event loop, which waits for its turn with each answer.
sys.setswitchinterval(0.001)
serve(Settings, _build, secure)
