"""The gateway's program with patience: an EVSE or a bridge that stands still for seconds is no lost one to it.

Else the half second that it gives an answer ends on a busy machine, and the gateway does what it does without an EVSE.
Tests that lose lines take the program as it is, and a gateway that restarts itself is that again.
"""

from __future__ import annotations

import sys

GATEWAY = [sys.executable, "-m", "labyard.evse.gateway"]
_SCRIPT = "from labyard.evse.gateway import __main__, rapi_client; rapi_client.TIMEOUT = 20.0; __main__.main()"
PATIENT_GATEWAY = [sys.executable, "-c", _SCRIPT]
