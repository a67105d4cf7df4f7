"""`python -m labyard.desktops`: the service, with its settings from DESKTOPS_* variables (--help lists them)."""

import sys

from fastapi import FastAPI

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


serve(Settings, _build, secure)
