"""What a machine's screen shows now."""

from __future__ import annotations

import io

from PIL import Image

from labyard.core.adapter import AdapterError
from labyard.vms.service.failures import failing_as, refused
from labyard.vms.service.lookups import vm_row
from labyard.vms.service.shared import Shared


class Screens:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def png(self, vm_id: str) -> bytes:
        """The screen as a PNG. Takes no lock: a machine that is being stopped may be looked at."""
        with self._shared.database.read() as session:
            state = vm_row(session, vm_id).state
        with failing_as("take a screenshot"):
            if not self._shared.hypervisor.is_active(vm_id):
                raise refused(f"VM is not running (current state: {state})")
            return _as_png(self._shared.hypervisor.screenshot(vm_id))


def _as_png(picture: bytes) -> bytes:
    written = io.BytesIO()
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.convert("RGB").save(written, "PNG")
    except OSError as error:
        raise AdapterError(f"reading the picture failed: {error}") from error
    return written.getvalue()
