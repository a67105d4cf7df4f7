"""Payouts: a valid PoOT is paid once (contract 8.4). "Processed" means booked in this service's own ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops import audit, names
from labyard.desktops.errors import Refusal, invalid
from labyard.desktops.models import AccountEntry, Node, Payout, PayoutStatus, Poot, PootStatus
from labyard.desktops.paging import Page, fetch
from labyard.desktops.service.money import MOST, amount
from labyard.desktops.service.poots import unknown
from labyard.desktops.service.shared import Shared

TREASURY = "treasury"


class Payouts:
    def __init__(self, shared: Shared) -> None:
        self._database = shared.database
        self._rate = shared.settings.poot_base_rate

    def pay(self, poot_id: str, wallet: str) -> Payout:
        """409 when it is not validated, or paid already."""
        try:
            with self._database.transaction() as session:
                (payout,) = self._book(session, [poot_id], wallet, None)
        except IntegrityError:  # another process was quicker
            raise _paid_already(poot_id) from None
        return payout

    def pay_batch(self, poot_ids: Sequence[str], wallet: str) -> tuple[str, list[Payout], Decimal]:
        """All or nothing: the batch's id, the payouts in the order of the request, and their sum."""
        repeated = [poot_id for poot_id, times in Counter(poot_ids).items() if times > 1]
        if repeated:
            raise invalid("poot_ids", f"names {repeated[0][:64]} more than once")
        batch = names.made("batch")
        try:
            with self._database.transaction() as session:
                payouts = self._book(session, poot_ids, wallet, batch)
                total = sum((payout.amount for payout in payouts), Decimal(0))
                if total > MOST:
                    raise invalid("poot_ids", f"come to {total} USDT; a batch may come to {MOST}")
        except IntegrityError:
            raise Refusal(
                "POOT_ALREADY_PAID", "One of these PoOT was paid meanwhile; nothing of the batch was"
            ) from None
        return batch, payouts, total

    def of_poot(self, poot_id: str) -> Payout:
        with self._database.read() as session:
            payout = session.scalar(select(Payout).where(Payout.poot_id == poot_id))
        if payout is None:
            raise Refusal("PAYOUT_NOT_FOUND", f"The PoOT {poot_id} has no payout yet")
        return payout

    def page(self, page: Page, wallet: str | None, node_id: str | None) -> tuple[list[Payout], int]:
        """Newest first."""
        query = select(Payout).order_by(Payout.created_at.desc(), Payout.payout_id)
        if wallet is not None:
            query = query.where(Payout.wallet_address == wallet)
        if node_id is not None:
            query = query.where(Payout.subject_id == node_id)
        with self._database.read() as session:
            return fetch(session, query, page)

    def _book(self, session: Session, poot_ids: Sequence[str], wallet: str, batch: str | None) -> list[Payout]:
        # In one order everywhere, so that batches do not wait for each other in a circle.
        query = select(Poot).where(Poot.poot_id.in_(poot_ids)).order_by(Poot.poot_id).with_for_update()
        poots = {poot.poot_id: poot for poot in session.scalars(query)}
        paid = set(session.scalars(select(Payout.poot_id).where(Payout.poot_id.in_(poot_ids))))
        for poot_id in poot_ids:
            if poot_id not in poots:
                raise unknown(poot_id)
        for poot_id in poot_ids:
            if poot_id in paid:
                raise _paid_already(poot_id)
            if poots[poot_id].status != PootStatus.VALIDATED:
                raise Refusal("POOT_STATE", f"The PoOT {poot_id} is {poots[poot_id].status}, not validated")
        subjects = {poot.subject_id for poot in poots.values()}
        found = select(Node.node_id, Node.operator).where(Node.node_id.in_(subjects))
        operators = dict(session.execute(found).all())
        moment = now()
        payouts = [
            self._payout(poots[poot_id], wallet, batch, poots[poot_id].subject_id in operators, moment)
            for poot_id in poot_ids
        ]
        session.add_all(payouts)
        session.flush()
        entries = []
        for payout in payouts:
            account = account_of(payout.subject_id, operators.get(payout.subject_id))
            entries += transfer("payout", payout.payout_id, [(TREASURY, -payout.amount), (account, payout.amount)])
        session.execute(insert(AccountEntry), entries)
        details = {
            "poot_ids": list(poot_ids),
            "wallet": wallet,
            "total": str(sum((payout.amount for payout in payouts), Decimal(0))),
        }
        audit.record(session, "payout", "pay", resource=("payout", batch or payouts[0].payout_id), details=details)
        return payouts

    def _payout(self, poot: Poot, wallet: str, batch: str | None, registered: bool, moment: datetime) -> Payout:
        assert poot.score is not None
        return Payout(
            payout_id=names.made("pay"), poot_id=poot.poot_id, batch_id=batch, wallet_address=wallet,
            subject_id=poot.subject_id, node_registered=registered, amount=amount(poot.score, self._rate),
            currency="USDT", status=PayoutStatus.PROCESSED, created_at=moment, processed_at=moment,
        )  # fmt: skip


def account_of(subject_id: str, operator: str | None) -> str:
    """The account that a node earns for: its operator's, where it is registered."""
    return f"operator:{operator}" if operator is not None else f"unregistered:{subject_id}"


def transfer(kind: str, reference: str, legs: Sequence[tuple[str, Decimal]]) -> list[dict[str, object]]:
    """Rows of account_entries for one transfer. The legs must add up to zero."""
    assert sum((value for _, value in legs), Decimal(0)) == 0, legs
    number, moment = names.made("tr"), now()
    return [
        {"transfer_id": number, "kind": kind, "reference": reference, "account": account, "amount": value,
         "created_at": moment}
        for account, value in legs
    ]  # fmt: skip


def _paid_already(poot_id: str) -> Refusal:
    return Refusal("POOT_ALREADY_PAID", f"The PoOT {poot_id} was paid before")
