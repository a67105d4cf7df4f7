"""Routes of /poot and /payouts. Fixed words come before ids."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query
from fastapi.concurrency import run_in_threadpool

from labyard.desktops import names, roles
from labyard.desktops.api.deps import (
    Admin,
    Anyone,
    NodeOperator,
    NodeReader,
    NodeReporter,
    PayoutOfficer,
    PayoutReader,
    Service,
    WithdrawalReader,
)
from labyard.desktops.api.routes import guarded, shared
from labyard.desktops.errors import Refusal
from labyard.desktops.fields import Line
from labyard.desktops.models import OperationalRecord, Payout, Poot, PootStatus, Withdrawal
from labyard.desktops.paging import Paging
from labyard.desktops.schemas.poot import (
    BatchOut,
    BatchPayoutIn,
    BatchPayoutOut,
    BatchValidateIn,
    NodePootStatisticsOut,
    OperationalRecordIn,
    OperationalRecordOut,
    PayoutIn,
    PayoutOut,
    PayoutsOut,
    PootHistoryOut,
    PootIn,
    PootOut,
    PootStatisticsOut,
    SubmittedOut,
    ValidationOut,
    WithdrawalOut,
    WithdrawalsOut,
)
from labyard.desktops.service import poots as poots_service

router = guarded("/poot", "poot")
payouts = guarded("/payouts", "payouts")

Word = Annotated[Line | None, Query(max_length=255)]


async def _poot_id(poot_id: str, service: Service, _: Anyone) -> str:
    if not await run_in_threadpool(service.poots.exists, poot_id):
        raise poots_service.unknown(poot_id)
    return poot_id


async def _seen_node(node_id: str, service: Service, _: Anyone) -> str:
    if not await run_in_threadpool(service.poots.seen, node_id):
        raise Refusal("NODE_NOT_FOUND", f"Nobody has heard of a node {node_id[:64]}")
    return node_id


# For routes with a body, whose judgement comes after the path's. The others leave it to the service.
PootId = Annotated[str, Depends(_poot_id)]
SeenNode = Annotated[str, Depends(_seen_node)]


@router.post("/submit", response_model=SubmittedOut, status_code=201)
def submit(who: NodeReporter, service: Service, body: PootIn) -> Poot:
    """A node's record of its work. Its nonce counts once, its stamp must be of the last 24 hours."""
    return service.poots.submit(body, who)


@router.post("/batch/validate", response_model=BatchOut)
def validate_batch(who: NodeOperator, service: Service, body: BatchValidateIn) -> dict[str, Any]:
    """Up to 100, answered in the order of the request. One that is unknown is an error of its own."""
    results = [_item(poot_id, found) for poot_id, found in service.validation.validate_batch(body.poot_ids)]
    errors = sum(result["error"] is not None for result in results)
    valid = sum(result["is_valid"] for result in results)
    summary = {"total": len(results), "valid": valid, "invalid": len(results) - valid - errors, "errors": errors}
    return {"batch_id": names.made("batch"), "results": results, "summary": summary}


@router.post("/batch/payout", response_model=BatchPayoutOut)
def pay_batch(who: NodeOperator, service: Service, body: BatchPayoutIn) -> dict[str, Any]:
    """All or nothing, up to 1000."""
    batch, found, total = service.payouts.pay_batch(body.poot_ids, body.wallet_address)
    return {
        "batch_id": batch,
        "wallet_address": body.wallet_address,
        "currency": "USDT",
        "results": found,
        "total_amount": total,
        "total_amount_exact": f"{total:.6f}",
    }


@router.get("/statistics", response_model=PootStatisticsOut)
def statistics(who: NodeReader, service: Service) -> dict[str, Any]:
    return service.poots.statistics()


@router.get("/history", response_model=PootHistoryOut)
@shared(roles.NODE_READ)
def history(who: NodeReader, service: Service, page: Paging, node_id: Word = None) -> dict[str, Any]:
    """Newest first."""
    found, total = service.poots.history(page, node_id)
    return page.envelope("poot_history", [_shown(poot, payout) for poot, payout in found], total)


@router.get("/nodes/{node_id}/statistics", response_model=NodePootStatisticsOut)
def node_statistics(who: NodeReader, node_id: SeenNode, service: Service) -> dict[str, Any]:
    return service.poots.node_statistics(node_id)


@router.put("/nodes/{node_id}/operational-record", response_model=OperationalRecordOut)
def import_record(who: Admin, node_id: str, service: Service, body: OperationalRecordIn) -> OperationalRecord:
    """A node's measured history from elsewhere, in place of what is measured here, for 24 hours from its end."""
    return service.operational_records.load(node_id, body, who)


@router.get("/{poot_id}", response_model=PootOut)
def get(who: NodeReader, poot_id: str, service: Service) -> dict[str, Any]:
    return _shown(*service.poots.get(poot_id))


@router.post("/{poot_id}/validate", response_model=ValidationOut)
def validate(who: NodeOperator, poot_id: str, service: Service) -> dict[str, Any]:
    """Scores it from what was measured of the node. Again: the same answer."""
    return _judged(service.validation.validate(poot_id))


@router.post("/{poot_id}/payout", response_model=PayoutOut)
def pay(who: NodeOperator, poot_id: PootId, service: Service, body: PayoutIn) -> Payout:
    """Books what the score is worth, once."""
    return service.payouts.pay(poot_id, body.wallet_address)


@router.get("/{poot_id}/payout", response_model=PayoutOut)
def payout(who: NodeReader, poot_id: PootId, service: Service) -> Payout:
    return service.payouts.of_poot(poot_id)


@payouts.get("", response_model=PayoutsOut)
@shared(roles.PAYOUT_READ)
def list_payouts(
    who: PayoutReader, service: Service, page: Paging, wallet_address: Word = None, node_id: Word = None
) -> dict[str, Any]:
    found, total = service.payouts.page(page, wallet_address, node_id)
    return page.envelope("payouts", found, total)


@payouts.get("/withdrawals", response_model=WithdrawalsOut)
@shared(roles.WITHDRAWAL_READ)
def withdrawals(who: WithdrawalReader, service: Service, page: Paging, wallet_address: Word = None) -> dict[str, Any]:
    found, total = service.withdrawals.page(page, wallet_address)
    return page.envelope("withdrawals", found, total)


@payouts.post("/withdrawals", response_model=WithdrawalOut, status_code=201)
def withdraw(who: PayoutOfficer, service: Service, body: PayoutIn) -> Withdrawal:
    """Pays out what a wallet has booked for registered nodes, less 1 %."""
    return service.withdrawals.create(body.wallet_address, who)


def _shown(poot: Poot, payout_id: str | None) -> dict[str, Any]:
    fields = (
        "poot_id", "status", "node_id", "node_registered", "session_id", "timestamp", "output_hash", "flags",
        "submitted_at", "score", "confidence", "validated_at", "metrics_source",
    )  # fmt: skip
    judged = poot.validated_at is not None
    return {name: getattr(poot, name) for name in fields} | {
        "is_valid": poot.status == PootStatus.VALIDATED if judged else None,
        "payout_id": payout_id,
    }


def _judged(poot: Poot) -> dict[str, Any]:
    fields = (
        "poot_id", "score", "confidence", "validation_time_ms", "factors", "weights", "inputs", "metrics_source",
        "flags", "errors",
    )  # fmt: skip
    return {name: getattr(poot, name) for name in fields} | {
        "is_valid": poot.status == PootStatus.VALIDATED,
        "validation_timestamp": poot.validated_at,
    }


def _item(poot_id: str, found: Poot | Refusal) -> dict[str, Any]:
    if isinstance(found, Refusal):
        return {"poot_id": poot_id, "is_valid": False, "error": {"code": found.code, "message": found.message}}
    return {**_judged(found), "error": None}
