"""What /metrics tells beyond the HTTP figures of core: what is on record, counted when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from labyard.core.database import Database
from labyard.desktops.models import AccountEntry, DeskSession, LedgerEntry, Node, Poot, RdpServer, SessionChunk

PREFIX = "labyard_desktops"
BY_STATUS: dict[str, Any] = {
    "nodes": Node.status,
    "rdp_servers": RdpServer.status,
    "sessions": DeskSession.status,
    "poots": Poot.status,
}


class Standing(Collector):
    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            yield from self._read()
        except SQLAlchemyError:
            return  # /ready says so; the other figures go out all the same

    def _read(self) -> list[GaugeMetricFamily]:
        found = []
        paid = (AccountEntry.kind == "payout", AccountEntry.amount > 0)
        with self._database.read() as session:
            for name, status in BY_STATUS.items():
                family = GaugeMetricFamily(f"{PREFIX}_{name}", f"{name} by status", labels=["status"])
                for value, count in session.execute(select(status, func.count()).group_by(status)):
                    family.add_metric([value], count)
                found.append(family)
            for name, query in (
                ("stored_chunks", select(func.count()).select_from(SessionChunk)),
                ("stored_bytes", select(func.coalesce(func.sum(SessionChunk.stored_size_bytes), 0))),
                ("ledger_entries", select(func.count()).select_from(LedgerEntry)),
                ("paid_usdt", select(func.coalesce(func.sum(AccountEntry.amount), 0)).where(*paid)),
            ):
                value = float(session.scalar(query) or 0)
                found.append(GaugeMetricFamily(f"{PREFIX}_{name}", name.replace("_", " "), value))
        return found
