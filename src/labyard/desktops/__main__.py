"""`python -m labyard.desktops`: the service, with its settings from DESKTOPS_* variables (--help lists them)."""

from labyard.core.serve import serve
from labyard.desktops.app import build
from labyard.desktops.https import secure
from labyard.desktops.settings import Settings

serve(Settings, build, secure)
