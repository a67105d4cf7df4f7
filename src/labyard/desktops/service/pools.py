"""Pools: which there are, and how many nodes they hold (contract section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops import audit
from labyard.desktops.errors import Refusal, invalid
from labyard.desktops.models import Node, NodeStatus, Pool
from labyard.desktops.paging import Page, fetch
from labyard.desktops.schemas.nodes import PoolChange, PoolIn
from labyard.desktops.service.reputation import penalty_left, reputation

LOCAL = "pool_local"
FIRST = {
    "pool_workers": "Workers",
    "pool_storage": "Storage",
    "pool_compute": "Compute",
    LOCAL: "This host",
}


@dataclass(frozen=True)
class PoolView:
    pool: Pool
    node_count: int

    def shown(self) -> dict[str, Any]:
        fields = ("pool_id", "name", "description", "max_nodes", "resource_limits", "created_at", "updated_at")
        return {name: getattr(self.pool, name) for name in fields} | {"node_count": self.node_count}


class Pools:
    def __init__(self, database: Database) -> None:
        self._database = database

    def ensure(self) -> None:
        """Those that are there from the beginning."""
        moment = now()
        rows = [
            {"pool_id": key, "name": name, "description": "", "max_nodes": 1000, "version": 1, "created_at": moment,
             "updated_at": moment}
            for key, name in FIRST.items()
        ]  # fmt: skip
        with self._database.transaction() as session:
            session.execute(insert(Pool).values(rows).on_conflict_do_nothing())

    def exists(self, pool_id: str) -> bool:
        with self._database.read() as session:
            return session.scalar(select(Pool.pool_id).where(Pool.pool_id == pool_id)) is not None

    def page(self, page: Page) -> tuple[list[PoolView], int]:
        with self._database.read() as session:
            pools, total = fetch(session, select(Pool).order_by(Pool.pool_id), page)
            counts = dict(session.execute(select(Node.pool_id, func.count()).group_by(Node.pool_id)).all())
        return [PoolView(pool, counts.get(pool.pool_id, 0)) for pool in pools], total

    def get(self, pool_id: str) -> PoolView:
        with self._database.read() as session:
            pool = session.get(Pool, pool_id)
            if pool is None:
                raise unknown(pool_id)
            return PoolView(pool, count(session, pool_id))

    def create(self, body: PoolIn) -> PoolView:
        pool = Pool(**body.model_dump())
        try:
            with self._database.transaction() as session:
                session.add(pool)
                session.flush()
                audit.record(session, "pool", "create", resource=("pool", pool.pool_id))
        except IntegrityError:
            raise Refusal("POOL_EXISTS", f"There is a pool {body.pool_id} already") from None
        return PoolView(pool, 0)

    def change(self, pool_id: str, body: PoolChange) -> PoolView:
        with self._database.transaction() as session:
            pool = session.get(Pool, pool_id, with_for_update=True)
            if pool is None:
                raise unknown(pool_id)
            nodes = count(session, pool_id)
            if body.max_nodes < nodes:
                raise Refusal("POOL_FULL", f"The pool {pool_id} holds {nodes} nodes: max_nodes cannot be less")
            for name, value in body.model_dump().items():
                setattr(pool, name, value)
            audit.record(session, "pool", "update", resource=("pool", pool_id), details=body.model_dump())
        return PoolView(pool, nodes)

    def delete(self, pool_id: str) -> None:
        with self._database.transaction() as session:
            pool = session.get(Pool, pool_id, with_for_update=True)
            if pool is None:
                raise unknown(pool_id)
            if count(session, pool_id):
                raise Refusal("POOL_STATE", f"The pool {pool_id} holds nodes; move them first")
            session.delete(pool)
            audit.record(session, "pool", "delete", resource=("pool", pool_id))

    def statistics(self, pool_id: str) -> dict[str, Any]:
        with self._database.read() as session:
            if session.get(Pool, pool_id) is None:
                raise unknown(pool_id)
            moment = now()
            rows = session.execute(
                select(Node.score_average, Node.penalty, Node.penalty_at).where(Node.pool_id == pool_id)
            ).all()
            known = [reputation(row.score_average, penalty_left(row.penalty, row.penalty_at, moment)) for row in rows]
            average = float(sum(known) / len(known)) if known else None
            return {"pool_id": pool_id, **_sums(session, pool_id), "average_reputation": average}

    def all_statistics(self) -> dict[str, Any]:
        with self._database.read() as session:
            pools = session.scalar(select(func.count()).select_from(Pool)) or 0
            return {**_sums(session), "total_pools": pools}


def unknown(pool_id: str) -> Refusal:
    return Refusal("POOL_NOT_FOUND", f"There is no pool {pool_id[:64]}")


def count(session: Session, pool_id: str) -> int:
    return session.scalar(select(func.count()).select_from(Node).where(Node.pool_id == pool_id)) or 0


def room_for_one(session: Session, pool_id: str, field: str) -> None:
    """Hold the pool until the transaction ends, with room for a node. 400 when there is none, 409 when it is full."""
    pool = session.get(Pool, pool_id, with_for_update=True)
    if pool is None:
        raise invalid(field, "names no pool")
    if count(session, pool_id) >= pool.max_nodes:
        raise Refusal("POOL_FULL", f"The pool {pool_id} holds {pool.max_nodes} nodes, which is all it may")


def _sums(session: Session, pool_id: str | None = None) -> dict[str, int]:
    """Over the nodes of a pool, or over all. Of what a node declares and what was observed the smaller counts."""

    def size(*path: str) -> Any:
        def as_number(column: Any) -> Any:
            for part in path:
                column = column[part]
            return column.astext.cast(BigInteger)

        return func.coalesce(func.sum(func.least(as_number(Node.hardware_info), as_number(Node.hardware_observed))), 0)

    active = Node.status == NodeStatus.ACTIVE
    query = select(
        func.count().label("total_nodes"),
        func.count().filter(active).label("active_nodes"),
        func.count().filter(~active).label("inactive_nodes"),
        size("cpu", "cores").label("total_cpu_cores"),
        size("memory", "total_bytes").label("total_memory_bytes"),
        size("storage", "total_bytes").label("total_storage_bytes"),
    ).select_from(Node)
    if pool_id is not None:
        query = query.where(Node.pool_id == pool_id)
    return {name: int(value) for name, value in session.execute(query).one()._mapping.items()}
