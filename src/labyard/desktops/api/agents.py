"""Routes of /agents: how an agent gets its certificate."""

from __future__ import annotations

from labyard.desktops.api.deps import Service
from labyard.desktops.api.routes import open_to_all
from labyard.desktops.schemas.nodes import EnrolIn, EnrolledOut

public = open_to_all("/agents", "agents")


@public.post("/enrol", response_model=EnrolledOut, status_code=201)
def enrol(service: Service, body: EnrolIn) -> dict[str, str]:
    """A certificate for the agent of a node, for the token of POST /nodes/{id}/enrolment, which counts once."""
    node_id, certificate, authority = service.enrolment.take(body.token, body.request)
    return {"node_id": node_id, "certificate": certificate, "authority": authority}
