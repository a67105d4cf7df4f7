"""Routes of /nodes and of its pools. Fixed words come before ids."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, Query
from fastapi.concurrency import run_in_threadpool

from labyard.desktops import roles
from labyard.desktops.api.deps import Admin, Anyone, NodeOperator, NodeReader, NodeReporter, Service
from labyard.desktops.api.routes import guarded, shared
from labyard.desktops.errors import Refusal
from labyard.desktops.fields import Duration, Line
from labyard.desktops.models import Node, NodeStatus
from labyard.desktops.paging import Paging
from labyard.desktops.schemas.nodes import (
    AlertsOut,
    EnrolmentOut,
    HeartbeatIn,
    HeartbeatOut,
    NodeIn,
    NodeOut,
    NodePoolOut,
    NodesOut,
    NodeStarted,
    NodeStatisticsOut,
    NodeStopped,
    NodeType,
    NodeUsageOut,
    PoolChange,
    PoolChoice,
    PoolIn,
    PoolOut,
    PoolsOut,
    PoolStatisticsOut,
    UsageHistoryOut,
)
from labyard.desktops.service import nodes as nodes_service
from labyard.desktops.service import pools as pools_service
from labyard.desktops.service import samples

router = guarded("/nodes", "nodes")

Word = Annotated[Line | None, Query(max_length=64)]


async def _node_id(node_id: str, service: Service, _: Anyone) -> str:
    if not await run_in_threadpool(service.nodes.exists, node_id):
        raise nodes_service.unknown(node_id)
    return node_id


async def _pool_id(pool_id: str, service: Service, _: Anyone) -> str:
    if not await run_in_threadpool(service.pools.exists, pool_id):
        raise pools_service.unknown(pool_id)
    return pool_id


# For routes with a body or a query, whose judgement comes after the path's. The others leave it to the service.
NodeId = Annotated[str, Depends(_node_id)]
PoolId = Annotated[str, Depends(_pool_id)]


@router.get("/statistics", response_model=NodeStatisticsOut)
def statistics(who: NodeReader, service: Service) -> dict[str, Any]:
    return service.pools.all_statistics()


@router.get("/pools", response_model=PoolsOut)
@shared(roles.NODE_READ)
def pools(who: NodeReader, service: Service, page: Paging) -> dict[str, Any]:
    found, total = service.pools.page(page)
    return page.envelope("pools", [pool.shown() for pool in found], total)


@router.post("/pools", response_model=PoolOut, status_code=201)
def create_pool(who: Admin, service: Service, body: PoolIn) -> dict[str, Any]:
    return service.pools.create(body).shown()


@router.get("/pools/{pool_id}", response_model=PoolOut)
def pool(who: NodeReader, pool_id: str, service: Service) -> dict[str, Any]:
    return service.pools.get(pool_id).shown()


@router.put("/pools/{pool_id}", response_model=PoolOut)
def change_pool(who: Admin, pool_id: PoolId, service: Service, body: PoolChange) -> dict[str, Any]:
    return service.pools.change(pool_id, body).shown()


@router.delete("/pools/{pool_id}", status_code=204)
def delete_pool(who: Admin, pool_id: str, service: Service) -> None:
    """409 while it holds nodes."""
    service.pools.delete(pool_id)


@router.get("/pools/{pool_id}/statistics", response_model=PoolStatisticsOut)
def pool_statistics(who: NodeReader, pool_id: str, service: Service) -> dict[str, Any]:
    return service.pools.statistics(pool_id)


@router.post("", response_model=NodeOut, status_code=201)
def register(who: NodeOperator, service: Service, body: NodeIn) -> dict[str, Any]:
    """Registers a node with the hardware that it declares. It is inactive until it is started."""
    return service.nodes.register(body, who).shown()


@router.get("", response_model=NodesOut)
@shared(roles.NODE_READ)
def list_nodes(
    who: NodeReader,
    service: Service,
    page: Paging,
    pool_id: Word = None,
    status: NodeStatus | None = None,
    node_type: NodeType | None = None,
    name: Annotated[Line | None, Query(max_length=100)] = None,
) -> dict[str, Any]:
    found, total = service.nodes.page(page, pool_id=pool_id, status=status, node_type=node_type, name=name)
    return page.envelope("nodes", [node.shown() for node in found], total)


@router.get("/{node_id}", response_model=NodeOut)
def get(who: NodeReader, node_id: str, service: Service) -> dict[str, Any]:
    return service.nodes.get(node_id).shown()


@router.delete("/{node_id}", status_code=204)
def delete(who: NodeOperator, node_id: str, service: Service) -> None:
    """409 while it is active or hosts RDP servers."""
    service.nodes.delete(node_id)


@router.post("/{node_id}/start", response_model=NodeStarted)
def start(who: NodeOperator, node_id: str, service: Service) -> Node:
    """Answers when the node is active: its agent, where it has one, was asked what the machine has."""
    return service.node_life.start(node_id)


@router.post("/{node_id}/stop", response_model=NodeStopped)
def stop(who: NodeOperator, node_id: NodeId, service: Service, drain: bool = False) -> Node:
    """409 while RDP servers run on it, unless `drain`, which stops them first."""
    return service.node_life.stop(node_id, drain)


@router.post("/{node_id}/maintenance", response_model=NodeOut)
def maintenance(who: NodeOperator, node_id: str, service: Service) -> dict[str, Any]:
    """No new work for it until it is started again."""
    service.node_life.maintain(node_id)
    return service.nodes.get(node_id).shown()


@router.post("/{node_id}/heartbeat", response_model=HeartbeatOut)
def heartbeat(who: NodeReporter, node_id: NodeId, service: Service, body: HeartbeatIn) -> Node:
    """`last_heartbeat` is when it came; how far the sender's clock is off is in `clock_skew_seconds`."""
    if who.node_id not in (None, node_id):
        raise Refusal("AUTH_FORBIDDEN", "An agent speaks for its own node only")
    return service.node_life.heartbeat(node_id, body.timestamp)


@router.post("/{node_id}/enrolment", response_model=EnrolmentOut, status_code=201)
def enrolment(who: NodeOperator, node_id: NodeId, service: Service) -> dict[str, Any]:
    """A token with which the node's agent gets its certificate: once, within 15 minutes."""
    token, until = service.enrolment.offer(node_id)
    return {"node_id": node_id, "enrolment_token": token, "expires_at": until}


@router.get("/{node_id}/pool", response_model=NodePoolOut)
def pool_of(who: NodeReader, node_id: str, service: Service) -> dict[str, Any]:
    return service.nodes.pool_of(node_id)


@router.put("/{node_id}/pool", response_model=NodePoolOut)
def move(who: NodeOperator, node_id: NodeId, service: Service, body: PoolChoice) -> dict[str, Any]:
    return service.nodes.move(node_id, body.pool_id)


@router.get("/{node_id}/usage", response_model=NodeUsageOut)
@shared(roles.NODE_READ)
def usage(who: NodeReader, node_id: NodeId, service: Service) -> dict[str, Any]:
    """What the node uses now: `source` says who measured. 409 while it is not active."""
    return {"node_id": node_id, **samples.shown(service.node_usage.current(node_id))}


@router.get("/{node_id}/usage/history", response_model=UsageHistoryOut)
@shared(roles.NODE_READ)
def usage_history(
    who: NodeReader, node_id: NodeId, service: Service, duration: Duration = timedelta(hours=1)
) -> dict[str, Any]:
    found = service.node_usage.history(node_id, duration)
    return {"node_id": node_id, "usage_history": [samples.shown(usage) for usage in found]}


@router.get("/{node_id}/alerts", response_model=AlertsOut)
def alerts(who: NodeReader, node_id: NodeId, service: Service) -> dict[str, Any]:
    return service.node_usage.alerts.of(node_id)
