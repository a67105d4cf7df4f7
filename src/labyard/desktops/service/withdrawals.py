"""Withdrawals: what a wallet has booked is paid out, less the fee (contract 8.4)."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import structlog
from sqlalchemy import exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops import audit, names
from labyard.desktops.adapters.settlement import Settlement, SettlementError
from labyard.desktops.advisory import WITHDRAWALS, hold
from labyard.desktops.errors import Refusal
from labyard.desktops.models import AccountEntry, Node, Payout, PayoutStatus, Withdrawal
from labyard.desktops.paging import Page, fetch
from labyard.desktops.roles import Principal
from labyard.desktops.service.money import LEAST_WITHDRAWAL, MOST, MOST_A_DAY, fee_and_net
from labyard.desktops.service.payouts import transfer
from labyard.desktops.service.shared import Shared

log = structlog.get_logger(__name__)

FEES = "fees"
ATTEMPTS = 3
# One at a time: the limits of a day are over all wallets.
LOCK = hold(WITHDRAWALS)


class Withdrawals:
    def __init__(self, shared: Shared, settlement: Settlement | None = None) -> None:
        self._database = shared.database
        self._settlement = settlement

    def create(self, wallet: str, who: Principal) -> Withdrawal:
        """All that may be paid to the wallet today. 409 below 10 USDT, 429 when today's limits leave less than that."""
        moment = now()
        with self._database.transaction() as session:
            session.execute(LOCK)
            payouts = self._payable(session, wallet, self._room(session, wallet, moment))
            gross = sum((payout.amount for payout, _ in payouts), Decimal(0))
            fee, net = fee_and_net(gross)
            booked = self._settlement is None
            withdrawal = Withdrawal(
                withdrawal_id=names.made("wd"), wallet_address=wallet, gross_amount=gross, fee_amount=fee,
                net_amount=net, requested_by=who.subject, created_at=moment, currency="USDT", attempts=0,
                status=PayoutStatus.PROCESSED if booked else PayoutStatus.PENDING,
                processed_at=moment if booked else None,
            )  # fmt: skip
            session.add(withdrawal)
            session.flush()
            for payout, _ in payouts:
                payout.withdrawal_id = withdrawal.withdrawal_id
            legs = [(account, -payout.amount) for payout, account in payouts]
            legs += [(FEES, fee), (f"wallet:{wallet}", net)]
            session.execute(insert(AccountEntry), transfer("withdrawal", withdrawal.withdrawal_id, legs))
            details = {"wallet": wallet, "gross": str(gross), "net": str(net)}
            resource = ("withdrawal", withdrawal.withdrawal_id)
            audit.record(session, "withdrawal", "create", resource=resource, details=details)
        return withdrawal if booked else self._settle(withdrawal.withdrawal_id)

    def page(self, page: Page, wallet: str | None) -> tuple[list[Withdrawal], int]:
        """Newest first."""
        query = select(Withdrawal).order_by(Withdrawal.created_at.desc(), Withdrawal.withdrawal_id)
        if wallet is not None:
            query = query.where(Withdrawal.wallet_address == wallet)
        with self._database.read() as session:
            return fetch(session, query, page)

    def resume(self) -> None:
        """After a crash: what was not settled yet is, under the same reference."""
        with self._database.read() as session:
            query = select(Withdrawal.withdrawal_id).where(Withdrawal.status == PayoutStatus.PENDING)
            pending = list(session.scalars(query))
        for withdrawal_id in pending:
            self._settle(withdrawal_id)

    def _room(self, session: Session, wallet: str, moment: datetime) -> Decimal:
        """What today's limits still allow for this wallet."""
        today = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        counted = (Withdrawal.created_at >= today, Withdrawal.status != PayoutStatus.FAILED)
        sums = func.coalesce(func.sum(Withdrawal.gross_amount), 0)
        all_wallets = Decimal(session.scalar(select(sums).where(*counted)) or 0)
        mine = Decimal(session.scalar(select(sums).where(*counted, Withdrawal.wallet_address == wallet)) or 0)
        return min(MOST - mine, MOST_A_DAY - all_wallets)

    def _payable(self, session: Session, wallet: str, room: Decimal) -> list[tuple[Payout, str]]:
        """The oldest booked payouts that fit, with the accounts that they are on; of registered nodes only."""
        query = (
            select(Payout, AccountEntry.account)
            .join(AccountEntry, AccountEntry.reference == Payout.payout_id)
            .where(
                AccountEntry.amount > 0,
                Payout.wallet_address == wallet,
                Payout.status == PayoutStatus.PROCESSED,
                Payout.withdrawal_id.is_(None),
                or_(Payout.node_registered, exists().where(Node.node_id == Payout.subject_id)),
            )
            .order_by(Payout.created_at, Payout.payout_id)
            .with_for_update(of=Payout)
        )
        rows = session.execute(query).all()
        balance = sum((payout.amount for payout, _ in rows), Decimal(0))
        if balance < LEAST_WITHDRAWAL:
            raise Refusal("PAYOUT_STATE", f"The wallet has {balance} USDT to withdraw; the least is {LEAST_WITHDRAWAL}")
        chosen, total = [], Decimal(0)
        for payout, account in rows:
            if total + payout.amount > room:
                break
            total += payout.amount
            chosen.append((payout, account))
        if total < LEAST_WITHDRAWAL:
            raise Refusal("QUOTA_EXCEEDED", "Today's limit of withdrawals is reached", headers={"Retry-After": "3600"})
        return chosen

    def _settle(self, withdrawal_id: str) -> Withdrawal:
        """Pay it, with three attempts; else it is failed, and its payouts may be withdrawn again."""
        while True:
            with self._database.transaction() as session:
                withdrawal = session.get_one(Withdrawal, withdrawal_id, with_for_update=True)
                if withdrawal.status != PayoutStatus.PENDING or self._settlement is None:
                    return withdrawal
                withdrawal.attempts += 1
                try:
                    paid = self._settlement.pay(withdrawal.wallet_address, withdrawal.net_amount, withdrawal_id)
                except SettlementError as error:
                    log.warning("withdrawal not settled", withdrawal=withdrawal_id, error=str(error))
                    withdrawal.last_error = str(error)[:500]
                    if withdrawal.attempts >= ATTEMPTS:
                        self._release(session, withdrawal)
                else:
                    withdrawal.transaction_hash, withdrawal.processed_at = paid, now()
                    withdrawal.status = PayoutStatus.PROCESSED
                resource = ("withdrawal", withdrawal_id)
                audit.record(session, "withdrawal", "settle", resource=resource, result=withdrawal.status)

    def _release(self, session: Session, withdrawal: Withdrawal) -> None:
        booked = select(AccountEntry.account, AccountEntry.amount).where(
            AccountEntry.kind == "withdrawal", AccountEntry.reference == withdrawal.withdrawal_id
        )
        back = [(account, -value) for account, value in session.execute(booked)]
        session.execute(insert(AccountEntry), transfer("release", withdrawal.withdrawal_id, back))
        session.execute(
            update(Payout).where(Payout.withdrawal_id == withdrawal.withdrawal_id).values(withdrawal_id=None)
        )
        withdrawal.status = PayoutStatus.FAILED
