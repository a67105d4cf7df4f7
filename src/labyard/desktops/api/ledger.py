"""Routes of /ledger. All of it may be read by those who see all sessions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query

from labyard.desktops import roles
from labyard.desktops.api.deps import Service, needs
from labyard.desktops.api.routes import guarded
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.sessions import LedgerEntriesOut, LedgerKeyOut, LedgerVerifiedOut

router = guarded("/ledger", "ledger")

Reader = Annotated[Principal, Depends(needs(roles.SESSION_SEE_ALL))]
Height = Annotated[int, Query(ge=0, le=2**62)]
PAGE = 1000


@router.get("/head")
def head(who: Reader, service: Service) -> dict[str, Any]:
    """The newest signed tree head: for `labyard-verify ledger --head`."""
    return service.sessions.ledger.head()


@router.get("/key", response_model=LedgerKeyOut)
def key(who: Reader, service: Service) -> dict[str, Any]:
    """The public key, PEM: for `labyard-verify --key`."""
    ledger = service.sessions.ledger
    return {"ledger_key_id": ledger.head()["ledger_key_id"], "public_key": ledger.public_key}


@router.get("/entries", response_model=LedgerEntriesOut)
def entries(
    who: Reader,
    service: Service,
    start: Annotated[Height, Query(alias="from")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
) -> dict[str, Any]:
    ledger = service.sessions.ledger
    return {"entries": ledger.entries(start, limit), "total": ledger.head()["tree_size"]}


@router.get("/proof/{height}")
def proof(who: Reader, service: Service, height: int) -> dict[str, Any]:
    """That the entry at this height is under the newest head."""
    return service.sessions.ledger.inclusion(height)


@router.get("/consistency")
def consistency(
    who: Reader,
    service: Service,
    first: Annotated[Height, Query(alias="from")],
    second: Annotated[Height, Query(alias="to")],
) -> dict[str, Any]:
    """That the first `from` entries are the beginning of the first `to`."""
    return service.sessions.ledger.consistency(first, second)


@router.post("/verify", response_model=LedgerVerifiedOut)
def verify(who: Reader, service: Service) -> dict[str, Any]:
    """Every hash and signature, the newest head and the mirror. Changes nothing."""
    return service.sessions.ledger.verify()
