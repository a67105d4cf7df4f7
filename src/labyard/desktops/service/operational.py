"""Operational records: a node's measured history from elsewhere (contract 8.3)."""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import insert

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops import audit
from labyard.desktops.errors import invalid
from labyard.desktops.models import OperationalRecord
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.poot import OperationalRecordIn
from labyard.desktops.service.poots import AHEAD, find_node


class OperationalRecords:
    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, node_id: str, body: OperationalRecordIn, who: Principal) -> OperationalRecord:
        """In place of what is measured, as long as the end of its window is within 24 h."""
        moment = now()
        if body.window_end > moment + AHEAD:
            raise invalid("window_end", "is in the future")
        with self._database.transaction() as session:
            node = find_node(session, node_id)
            subject = node.node_id if node else node_id
            values = {**body.model_dump(), "node_id": subject, "imported_by": who.subject, "imported_at": moment}
            changes = {name: value for name, value in values.items() if name != "node_id"}
            session.execute(
                insert(OperationalRecord).values(values).on_conflict_do_update(index_elements=["node_id"], set_=changes)
            )
            details = {name: value for name, value in body.model_dump(mode="json").items() if value is not None}
            audit.record(session, "operational_record", "import", resource=("node", subject), details=details)
            return session.get_one(OperationalRecord, subject)
