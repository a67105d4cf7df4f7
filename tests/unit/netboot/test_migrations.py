"""The migrations give the tables that the models describe."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, insert, select

from labyard.core.clock import now
from labyard.core.database import Base, Database
from labyard.netboot.models import BootSession, Machine


def test_models_and_migrations_agree(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    database.migrate("labyard.netboot")
    database.migrate("labyard.netboot")  # a second start changes nothing
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_what_was_on_record_before_bmcs_stays(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    database.migrate("labyard.netboot", "0001")
    tables = MetaData()
    tables.reflect(database.engine)
    known = {"name": "x", "label": "x", "mac_address": "x", "filename": "x", "file_path": "x", "format": "raw"}
    known |= {
        "session_id": "x",
        "machine_id": 1,
        "image_id": 1,
        "server_ip": "x",
        "initiated_by": "x",
        "reserved": True,
    }
    empty = {"VARCHAR": "", "TEXT": "", "JSON": [], "INTEGER": 0, "BIGINT": 0, "BOOLEAN": False, "DATETIME": now()}
    with database.write() as session:
        for name in ("machines", "images", "sessions"):
            columns = [column for column in tables.tables[name].columns if not column.nullable and column.name != "id"]
            row = {column.name: known.get(column.name, empty[str(column.type).split("(")[0]]) for column in columns}
            session.execute(insert(tables.tables[name]).values(row))
    database.migrate("labyard.netboot")
    with database.read() as session:
        machine, boot = session.scalars(select(Machine)).one(), session.scalars(select(BootSession)).one()
    assert (machine.name, machine.bmc_url, machine.bmc_password_set, machine.bmc_verify_tls) == ("x", None, False, True)
    assert (boot.session_id, boot.machine_id, boot.power, boot.power_off) == ("x", machine.id, "none", False)
