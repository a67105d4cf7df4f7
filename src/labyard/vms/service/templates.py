"""Templates: what machines are made to (contract section 4.2)."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from labyard.core.database import Database
from labyard.core.errors import not_found
from labyard.vms.models import Template, Vm
from labyard.vms.schemas import TemplateCreate
from labyard.vms.service.failures import refused


class Templates:
    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, given: TemplateCreate) -> Template:
        """400 when the name is taken."""
        template = Template(**given.model_dump())
        try:
            with self._db.write() as session:
                session.add(template)
        except IntegrityError as error:
            raise refused("Template already exists") from error
        return template

    def list(self) -> list[Template]:
        with self._db.read() as session:
            return list(session.scalars(select(Template).order_by(Template.name)))

    def get(self, name: str) -> Template:
        with self._db.read() as session:
            template = session.get(Template, name)
        if template is None:
            raise not_found("Template not found")
        return template

    def delete(self, name: str) -> None:
        """400 while a VM was made from it."""
        with self._db.write() as session:
            template = session.get(Template, name)
            if template is None:
                raise not_found("Template not found")
            users = session.scalar(select(func.count()).select_from(Vm).where(Vm.template_name == name))
            if users:
                raise refused(f"Template is in use by {users} VM(s)")
            session.delete(template)
