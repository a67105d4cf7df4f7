"""The ledger in a real PostgreSQL, with its mirror, and as its readers see it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from labyard.core.database import Database
from labyard.desktops.adapters.ledger import Anchored
from labyard.desktops.evidence import ledger as entries
from labyard.desktops.evidence import merkle
from labyard.desktops.evidence.verify import main as verify
from labyard.desktops.keyring import KeyFileError
from labyard.desktops.roles import Role
from labyard.desktops.service import Desktops
from labyard.desktops.service.ledger import SqlLedger

from .conftest import Caller


@pytest.fixture
def ledger(service: Desktops) -> SqlLedger:
    return service.sessions.ledger


def anchor(service: Desktops, subject: str | None = None) -> Anchored:
    with service.database.transaction() as session:
        return service.sessions.ledger.append(
            session, entries.SESSION, subject or secrets.token_hex(8), merkle.EMPTY.hex(), 0, 0, "0" * 64
        )


def mirror(service: Desktops) -> Path:
    return service.settings.state_dir / "ledger.jsonl"


class TestAppend:
    def test_begins_with_its_genesis(self, ledger: SqlLedger) -> None:
        (genesis,) = ledger.entries(0, 10)
        assert (genesis["block_height"], genesis["kind"], genesis["prev_hash"]) == (0, "genesis", "0" * 64)
        assert ledger.head()["tree_size"] == 1
        assert ledger.verify() == {"valid": True, "entries": 1, "first_bad": None, "reason": None}

    def test_one_entry_for_one_subject(self, service: Desktops) -> None:
        assert anchor(service, "sess-1") == anchor(service, "sess-1")
        assert anchor(service, "sess-2").block_height == 2

    def test_gapless_side_by_side(self, service: Desktops, ledger: SqlLedger) -> None:
        with ThreadPoolExecutor(8) as pool:
            heights = sorted(each.block_height for each in pool.map(lambda _: anchor(service), range(24)))
        assert heights == list(range(1, 25))
        assert ledger.verify()["valid"] is True

    def test_what_is_rolled_back_leaves_no_gap(self, service: Desktops, ledger: SqlLedger) -> None:
        with pytest.raises(RuntimeError), service.database.transaction() as session:
            ledger.append(session, entries.SESSION, "sess-x", merkle.EMPTY.hex(), 0, 0, "0" * 64)
            raise RuntimeError("as anything that follows may")
        assert anchor(service).block_height == 1
        assert ledger.verify()["valid"] is True
        assert len(mirror(service).read_text().splitlines()) == 2

    @pytest.mark.parametrize("table", ["ledger_entries", "ledger_heads"])
    @pytest.mark.parametrize("change", ["UPDATE {} SET timestamp = ''", "DELETE FROM {}", "TRUNCATE {}"])
    def test_the_database_refuses_changes(self, service: Desktops, table: str, change: str) -> None:
        with pytest.raises(ProgrammingError, match="append-only"), service.database.transaction() as session:
            session.execute(text(change.format(table)))

    def test_goes_on_after_a_restart(self, service: Desktops, ledger: SqlLedger) -> None:
        anchor(service)
        again = SqlLedger(service.database, service.settings.keys / "ledger.pem", mirror(service))
        again.start()
        assert again.head() == ledger.head()
        assert again.public_key == ledger.public_key
        anchor(service)
        assert again.verify()["entries"] == 3

    def test_a_key_that_others_may_read_is_refused(self, service: Desktops) -> None:
        key = service.settings.keys / "ledger.pem"
        key.chmod(0o440)
        with pytest.raises(KeyFileError, match="can be read by others"):
            SqlLedger(service.database, key, mirror(service))


class TestMirror:
    def test_is_a_ledger_that_the_verifier_reads(self, service: Desktops, ledger: SqlLedger, tmp_path: Path) -> None:
        anchor(service)
        (tmp_path / "key.pem").write_text(ledger.public_key)
        (tmp_path / "head.json").write_text(json.dumps(ledger.head()))
        check = ["ledger", "--key", str(tmp_path / "key.pem"), str(mirror(service))]
        assert verify([*check, "--head", str(tmp_path / "head.json")]) == 0
        assert mirror(service).stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("left", [b"", b'{"version":1,"blo'])
    def test_a_crash_between_database_and_mirror_is_made_good(
        self, service: Desktops, ledger: SqlLedger, left: bytes
    ) -> None:
        for _ in range(2):
            anchor(service)
        whole = mirror(service).read_bytes()
        mirror(service).write_bytes(b"".join(whole.splitlines(keepends=True)[:1]) + left)
        assert ledger.verify()["first_bad"] == "entry 1"
        ledger.start()
        assert mirror(service).read_bytes() == whole

    def test_a_changed_line_is_found(self, service: Desktops, ledger: SqlLedger) -> None:
        anchor(service)
        mirror(service).write_bytes(mirror(service).read_bytes().replace(b'"chunk_count":0', b'"chunk_count":1'))
        assert ledger.verify()["first_bad"] == "entry 0"


class TestTampering:
    def test_a_changed_row_is_found(self, service: Desktops, ledger: SqlLedger, database_owner: Database) -> None:
        for _ in range(3):
            anchor(service)
        with database_owner.transaction() as session:
            session.execute(text("ALTER TABLE ledger_entries DISABLE TRIGGER append_only"))
            session.execute(text("GRANT UPDATE ON ledger_entries TO CURRENT_USER"))
            session.execute(text("UPDATE ledger_entries SET chunk_count = 7 WHERE block_height = 2"))
        found = ledger.verify()
        assert (found["valid"], found["first_bad"]) == (False, "entry 2")

    @pytest.fixture
    def database_owner(self, service: Desktops) -> Database:
        """Who may change tables, as an intruder with the service's own rights could."""
        return service.database


class TestRoutes:
    def test_proofs(self, service: Desktops, operator: Caller) -> None:
        for _ in range(5):
            anchor(service)
        head = operator.get("/ledger/head").json()
        found = operator.get("/ledger/proof/3").json()
        assert found["head"] == head
        entries.check_inclusion(found["entry"], found["inclusion"], head)
        consistency = operator.get("/ledger/consistency", params={"from": 2, "to": 6}).json()
        path = [bytes.fromhex(step) for step in consistency["path"]]
        old, new = (bytes.fromhex(consistency[name]) for name in ("from_root", "to_root"))
        assert new.hex() == head["root_hash"]
        assert merkle.is_consistent(2, 6, old, new, path)

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/ledger/proof/9", 404),
            ("/ledger/proof/x", 400),
            ("/ledger/consistency?from=0&to=1", 400),
            ("/ledger/consistency?from=1&to=2", 400),
            ("/ledger/entries?from=-1", 400),
        ],
    )
    def test_bad_input(self, operator: Caller, path: str, status: int) -> None:
        assert operator.get(path).status_code == status

    def test_pages(self, service: Desktops, operator: Caller) -> None:
        for _ in range(3):
            anchor(service)
        page = operator.get("/ledger/entries", params={"from": 1, "limit": 2}).json()
        assert [entry["block_height"] for entry in page["entries"]] == [1, 2]
        assert page["total"] == 4

    def test_roles(self, caller: Callable[..., Caller]) -> None:
        for role, status in ((Role.AUDITOR, 200), (Role.SESSION_VIEWER, 403), (Role.RDP_OPERATOR, 403)):
            who = caller("somebody", role)
            assert who.get("/ledger/head").status_code == status
            assert who.post("/ledger/verify").status_code == status
        assert caller().get("/ledger/head").status_code == 401


def test_reset_begins_a_new_ledger(make_http: Callable[..., Any]) -> None:
    service: Desktops = make_http(env="test").app.state.desktops
    before = anchor(service)
    service.upkeep.reset()
    after = service.sessions.ledger.verify()
    assert (after["valid"], after["entries"]) == (True, 1)
    assert anchor(service).block_height == 1
    assert service.sessions.ledger.entries(1, 1)[0]["transaction_hash"] != before.transaction_hash
