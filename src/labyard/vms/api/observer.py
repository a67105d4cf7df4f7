"""Routes of /observer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from labyard.vms.api.deps import Service
from labyard.vms.observer import Issue, Sweep
from labyard.vms.schemas import CheckAnswer, IssueAnswer, RepairAnswer, as_moment_text

router = APIRouter(prefix="/observer", tags=["observer"])


@router.get("/status")
def status(service: Service) -> dict[str, Any]:
    """What the last sweep found."""
    observer = service.observer
    if observer.status == "not_initialized":
        return {"status": "not_initialized", "issues": []}
    last = observer.last
    issues = [issue.model_dump() for issue in _issues(last.issues if last else [])]
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
def check(service: Service, repair: bool = False) -> RepairAnswer | CheckAnswer:
    """One sweep, now. With `repair`, what it finds is mended, and the answer is what a second sweep still finds.

    Records are brought into line, and machines that should run are started; no process and no file is removed.
    """
    sweep = service.observer.check()
    if not repair:
        return CheckAnswer.model_validate(_told(sweep))
    mended = service.repairs.mend(sweep.issues) if sweep.error is None else []
    left = service.observer.check() if mended else sweep
    return RepairAnswer.model_validate(_told(left) | {"repaired": _issues(mended)})


def _told(sweep: Sweep) -> dict[str, Any]:
    return {
        "status": "error" if sweep.error else "ok",
        "issues_count": len(sweep.issues),
        "issues": _issues(sweep.issues),
        "started_at": sweep.started_at,
        "finished_at": sweep.finished_at,
        "error": sweep.error,
    }


def _issues(issues: list[Issue]) -> list[IssueAnswer]:
    return [IssueAnswer.model_validate(issue) for issue in issues]
