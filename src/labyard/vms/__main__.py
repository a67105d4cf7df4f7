"""`python -m labyard.vms`: the service, with its settings from VMAN_* variables (--help lists them)."""

from labyard.core.serve import serve
from labyard.vms.app import build
from labyard.vms.settings import Settings

serve(Settings, build)
