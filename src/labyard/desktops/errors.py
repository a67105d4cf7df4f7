"""Everything this service refuses with: one code each, and the HTTP status that belongs to it (contract 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labyard.core.errors import ServiceError

STATUS = {
    "AUTH_MISSING": 401, "AUTH_INVALID": 401, "AUTH_EXPIRED": 401, "AUTH_REVOKED": 401,
    "AUTH_FORBIDDEN": 403,
    "NOT_FOUND": 404, "SES_NOT_FOUND": 404, "CHUNK_NOT_FOUND": 404, "STAGE_NOT_FOUND": 404, "RDP_NOT_FOUND": 404,
    "NODE_NOT_FOUND": 404, "POOL_NOT_FOUND": 404, "POOT_NOT_FOUND": 404, "PAYOUT_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405, "BODY_TOO_LARGE": 413,
    "VALIDATION_FAILED": 400, "SES_NO_RDP_TARGET": 400, "POOT_STALE": 400, "POOT_FUTURE": 400,
    "SES_STATE": 409, "RDP_STATE": 409, "RDP_HAS_SESSIONS": 409, "NODE_STATE": 409, "NODE_EXISTS": 409,
    "POOL_STATE": 409, "POOL_EXISTS": 409, "POOL_FULL": 409, "USER_EXISTS": 409,
    "POOT_REPLAY": 409, "POOT_STATE": 409, "POOT_ALREADY_PAID": 409, "PAYOUT_STATE": 409,
    "IDEMPOTENCY_MISMATCH": 409, "VERSION_CONFLICT": 409,
    "RATE_LIMITED": 429, "QUOTA_EXCEEDED": 429,
    "PORTS_EXHAUSTED": 503, "CAPACITY_EXHAUSTED": 503, "NO_ACTIVE_NODE": 503, "DB_UNAVAILABLE": 503,
    "STORAGE_FULL": 503, "SEAL_INCOMPLETE": 503, "RDP_START_FAILED": 503,
    "AGENT_BAD_RESPONSE": 502, "AGENT_UNREACHABLE": 503, "AGENT_TIMEOUT": 504, "INTERNAL": 500,
}  # fmt: skip
RETRY_AFTER = 5  # seconds, with every 429 and 503 that does not know better


class Refusal(ServiceError):
    """`problems` are (field, problem): which field of the request, and what is wrong with it."""

    def __init__(
        self,
        code: str,
        message: str,
        problems: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        status = STATUS[code]
        extra = dict(headers or {})
        if status in (429, 503):
            extra.setdefault("Retry-After", str(RETRY_AFTER))
        if status == 401:
            extra.setdefault("WWW-Authenticate", "Bearer")
        super().__init__(status, code, message, extra)
        self.message = message
        self.problems = list(problems)


def invalid(field: str, problem: str) -> Refusal:
    """400 for one field of the body or the query."""
    return Refusal("VALIDATION_FAILED", f"{field}: {problem}", [(field, problem)])
