"""Routes of /templates."""

from __future__ import annotations

from fastapi import APIRouter

from labyard.vms.api.deps import Service
from labyard.vms.schemas import TemplateAnswer, TemplateCreate

router = APIRouter(prefix="/templates", tags=["templates"])


@router.post("", status_code=201)
def create(body: TemplateCreate, service: Service) -> TemplateAnswer:
    """RAM is MiB. A template does not change once it is made. 400 for a name that is taken."""
    return TemplateAnswer.of(service.templates.create(body))


@router.get("")
def list_templates(service: Service) -> list[TemplateAnswer]:
    return [TemplateAnswer.of(template) for template in service.templates.list()]


@router.get("/{name}")
def get(name: str, service: Service) -> TemplateAnswer:
    return TemplateAnswer.of(service.templates.get(name))


@router.delete("/{name}", status_code=204)
def delete(name: str, service: Service) -> None:
    """400 while a VM was made from it."""
    service.templates.delete(name)
