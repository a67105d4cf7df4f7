"""`python -m labyard.netboot`: the service, with its settings from LABYARD_NETBOOT_* variables (--help lists them)."""

from labyard.core.serve import serve
from labyard.netboot.app import build
from labyard.netboot.settings import Settings

serve(Settings, build)
