"""Routes of /observer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from labyard.vms.api.deps import Service
from labyard.vms.schemas import CheckAnswer, IssueAnswer, as_moment_text

router = APIRouter(prefix="/observer", tags=["observer"])


@router.get("/status")
def status(service: Service) -> dict[str, Any]:
    """What the last sweep found."""
    observer = service.observer
    if observer.status == "not_initialized":
        return {"status": "not_initialized", "issues": []}
    last = observer.last
    issues = [IssueAnswer.model_validate(issue).model_dump() for issue in (last.issues if last else [])]
    return {
        "status": observer.status,
        "check_interval": observer.interval,
        "last_issues_count": len(issues),
        "last_issues": issues,
        "last_run": as_moment_text(last.finished_at if last else None),
        "last_error": last.error if last else None,
        "sweeps": observer.sweeps,
    }


@router.post("/check")
def check(service: Service) -> CheckAnswer:
    """One sweep, now."""
    sweep = service.observer.check()
    return CheckAnswer(
        status="error" if sweep.error else "ok",
        issues_count=len(sweep.issues),
        issues=[IssueAnswer.model_validate(issue) for issue in sweep.issues],
        started_at=sweep.started_at,
        finished_at=sweep.finished_at,
        error=sweep.error,
    )
