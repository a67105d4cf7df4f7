"""Keys changed, everything reset: what an administrator does now and then (contract section 2)."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable

import structlog
from sqlalchemy import inspect, select, text

from labyard.core.adapter import AdapterError
from labyard.desktops import audit
from labyard.desktops.errors import Refusal
from labyard.desktops.keyring import Keyring
from labyard.desktops.models import Node
from labyard.desktops.service.sessions.shared import EVERYTHING
from labyard.desktops.service.shared import Shared
from labyard.desktops.service.tokens import TokenKeys

log = structlog.get_logger(__name__)

APPEND_ONLY = ("audit_log", "ledger_entries", "ledger_heads")
KEPT = ("alembic_version",)


class Upkeep:
    """`rewrap` are what seals anew whatever was sealed with older keys; `after_reset` what must be there always."""

    def __init__(
        self, shared: Shared, rewrap: list[Callable[[], int]], after_reset: list[Callable[[], object]]
    ) -> None:
        self._shared = shared
        self._rewrap = rewrap
        self._after_reset = after_reset

    def rotate_keys(self) -> tuple[str, int]:
        """A new key-encryption key seals all that older ones did: its id, and how many were sealed anew."""
        keyring: Keyring = self._shared.keyring
        name = keyring.rotate()
        count = sum(rewrap() for rewrap in self._rewrap)
        self._note("rotate", {"key_id": name, "rewrapped": count})
        return name, count

    def rotate_token_key(self) -> str:
        """A new key that tokens are signed with from the service's next start on. Its id."""
        name = TokenKeys(self._shared.settings.keys / "tokens.json").rotate()
        self._note("rotate", {"token_key_id": name})
        return name

    def reset(self) -> None:
        """Everything goes: servers, recorders, accounts, chunks, rows. 404 outside the environment `test`."""
        if not self._shared.settings.in_test:
            raise Refusal("NOT_FOUND", "There is nothing at this path; /docs lists what there is")
        self._clear_nodes()
        with self._shared.database.transaction() as session:
            tables = [name for name in inspect(session.connection()).get_table_names() if name not in KEPT]
            for table in APPEND_ONLY:
                session.execute(text(f"GRANT TRUNCATE ON {table} TO CURRENT_USER"))
                session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER append_only"))
            session.execute(text(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY"))
            for table in APPEND_ONLY:
                session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER append_only"))
                session.execute(text(f"REVOKE TRUNCATE ON {table} FROM CURRENT_USER"))
            audit.record(session, "reset", "reset")
        self._shared.live.clear()
        chunks = self._shared.settings.chunks
        if chunks.exists():
            # By another name first: nobody finds half of it.
            gone = chunks.with_name(f".{chunks.name}.{secrets.token_hex(4)}")
            chunks.rename(gone)
            shutil.rmtree(gone)
        for make in self._after_reset:
            make()

    def _clear_nodes(self) -> None:
        """What agents have made. One that does not answer keeps its things: its reconciler finds them unknown."""
        with self._shared.database.read() as session:
            nodes = list(session.scalars(select(Node.node_id)))
        for node_id in nodes:
            if not self._shared.agents.hosts(node_id):
                continue
            try:
                agent = self._shared.agents.of(node_id)
                for session_id in agent.record_list():
                    agent.record_stop(session_id, f"reset-{session_id}")
                    agent.segments_ack(session_id, EVERYTHING)
                for server_id in agent.server_list():
                    agent.server_delete(server_id, f"reset-{server_id}")
            except AdapterError as error:
                log.warning("not cleared", node=node_id, error=str(error))

    def _note(self, action: str, details: dict[str, object]) -> None:
        with self._shared.database.transaction() as session:
            audit.record(session, "key", action, details=details)
