"""Routes of /admin."""

from __future__ import annotations

from labyard.desktops.api.deps import Admin, Service
from labyard.desktops.api.routes import guarded

router = guarded("/admin", "admin")


@router.post("/reset", status_code=204)
def reset(who: Admin, service: Service) -> None:
    """Takes everything away. Only in the environment `test`; elsewhere there is no such path."""
    service.upkeep.reset()
