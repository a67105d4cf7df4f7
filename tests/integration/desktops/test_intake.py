"""From segments to committed chunks, with everything that can go wrong on the way; a real PostgreSQL and real files."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from labyard.core.clock import now
from labyard.desktops.adapters.agent import Segment
from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.evidence import merkle, objects
from labyard.desktops.evidence.compression import Compression
from labyard.desktops.models import AuditEntry, DataKey, DeskSession, SessionChunk, SessionStage, SessionStatus
from labyard.desktops.moments import as_text
from labyard.desktops.roles import Principal, Role
from labyard.desktops.schemas.sessions import RdpConfig, SessionIn
from labyard.desktops.service import Desktops
from labyard.desktops.service.data_keys import KeyDestroyed
from labyard.desktops.service.sessions import SessionService
from labyard.desktops.service.sessions.intake import Intake, Plan

WHO = Principal("somebody", frozenset({Role.SESSION_MANAGER}))


class Waiting:
    """Segments that wait on a node."""

    def __init__(self, session_id: str, count: int) -> None:
        begun = now()
        self.waiting = [
            Segment(
                session_id, number, as_text(begun + timedelta(seconds=number)), 1000, 640, 480, 5, b"media" * number
            )
            for number in range(1, count + 1)
        ]
        self.acknowledged: list[int] = []

    def segments(self, session_id: str, after: int) -> Iterator[Segment]:
        yield from [segment for segment in self.waiting if segment.sequence > after]

    def segments_ack(self, session_id: str, upto: int) -> None:
        self.acknowledged.append(upto)
        self.waiting = [segment for segment in self.waiting if segment.sequence > upto]


class Line:
    """A session with its intake."""

    def __init__(self, service: Desktops, store: ChunkStore | None = None, most_bytes: int = 2**30) -> None:
        self.service = service
        self.sessions: SessionService = service.sessions
        body = SessionIn(name="x", rdp_config=RdpConfig(host="h", username="u"))
        self.session_id: str = self.sessions.records.create(body, WHO)["session_id"]
        with service.database.transaction() as session:
            self.key = self.sessions.keys.make(session, self.session_id)
        self.plan = Plan(self.session_id, Compression.ZSTD, self.key, False, most_bytes)
        self.store = store or self.sessions.store
        self.intake = Intake(service.database, self.store, self.plan, reserve=0)

    def pull(self, agent: Waiting) -> int:
        return self.intake.pull(agent)  # type: ignore[arg-type]

    def chunks(self) -> list[SessionChunk]:
        with self.service.database.read() as session:
            query = select(SessionChunk).where(SessionChunk.session_id == self.session_id)
            return list(session.scalars(query.order_by(SessionChunk.sequence_number)))

    def stage(self, name: str) -> SessionStage:
        with self.service.database.read() as session:
            return session.get_one(SessionStage, (self.session_id, name))

    def row(self) -> DeskSession:
        with self.service.database.read() as session:
            return session.get_one(DeskSession, self.session_id)


@pytest.fixture
def service(service: Desktops) -> Desktops:
    """Without its background work, which sweeps, too."""
    service.watch.stop()
    return service


@pytest.fixture
def line(service: Desktops) -> Line:
    return Line(service)


class TestPull:
    def test_segments_become_chunks(self, line: Line) -> None:
        agent = Waiting(line.session_id, 3)
        assert line.pull(agent) == 3
        assert agent.acknowledged == [1, 2, 3]
        chunks = line.chunks()
        assert [chunk.sequence_number for chunk in chunks] == [1, 2, 3]
        for chunk in chunks:
            header, media = objects.unpack(line.store.read(chunk.chunk_id), line.key)
            assert media == b"media" * chunk.sequence_number
            assert (header.key_id, header.nonce) == (chunk.encryption_key_id, chunk.nonce)
            assert chunk.size_bytes == len(media)
        assert line.stage("storage").items_processed == 3
        assert line.stage("processing").processing_time_ms > 0
        assert line.pull(agent) == 0

    def test_a_new_intake_goes_on_where_the_old_one_was(self, line: Line) -> None:
        agent = Waiting(line.session_id, 4)
        acknowledge, agent.segments_ack = agent.segments_ack, lambda *_: None  # type: ignore[method-assign]
        line.pull(agent)
        agent.segments_ack = acknowledge  # type: ignore[method-assign]
        line.intake = Intake(line.service.database, line.store, line.plan, reserve=0)
        assert line.pull(agent) == 0
        assert len(line.chunks()) == 4

    def test_a_backup_is_a_second_copy(self, service: Desktops, tmp_path: Path) -> None:
        store = ChunkStore(tmp_path / "store", backup=tmp_path / "backup")
        line = Line(service, store)
        line.intake = Intake(service.database, store, Plan(line.session_id, Compression.NONE, None, True, 2**30), 0)
        line.pull(Waiting(line.session_id, 2))
        copies = sorted(path.relative_to(tmp_path / "backup") for path in (tmp_path / "backup").rglob("*.lyck"))
        assert copies == sorted(p.relative_to(tmp_path / "store") for p in (tmp_path / "store").rglob("*.lyck"))
        assert len(copies) == 2

    def test_enough_is_enough(self, service: Desktops) -> None:
        line = Line(service, most_bytes=600)
        line.pull(Waiting(line.session_id, 1))
        assert line.intake.full is None
        line.pull(Waiting(line.session_id, 3))
        assert line.intake.full == "max_size"

    def test_a_disk_at_its_reserve(self, line: Line) -> None:
        line.intake = Intake(line.service.database, line.store, line.plan, reserve=2**60)
        line.pull(Waiting(line.session_id, 1))
        assert line.intake.full == "storage_full"
        assert len(line.chunks()) == 1


class TestTwoProcesses:
    def test_a_chunk_is_committed_once_with_the_file_that_its_row_is_of(self, line: Line) -> None:
        """As two instances of the service would that follow the same session."""
        intakes = [Intake(line.service.database, line.store, line.plan, reserve=0) for _ in range(3)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda each: each.pull(Waiting(line.session_id, 20)), intakes))  # type: ignore[arg-type]
        chunks = line.chunks()
        assert [chunk.sequence_number for chunk in chunks] == list(range(1, 21))
        for chunk in chunks:
            assert merkle.leaf_hash(line.store.read(chunk.chunk_id)).hex() == chunk.merkle_hash
        assert line.stage("storage").items_processed == 20


class TestTrouble:
    def test_a_nonce_is_never_used_twice(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = [bytes(12), bytes(12), b"\1" * 12]
        monkeypatch.setattr(objects, "fresh_nonce", lambda: drawn.pop(0))
        line.pull(Waiting(line.session_id, 2))
        chunks = line.chunks()
        assert [chunk.nonce for chunk in chunks] == ["00" * 12, "01" * 12]
        for chunk in chunks:
            assert objects.unpack(line.store.read(chunk.chunk_id), line.key)[1] == b"media" * chunk.sequence_number

    def test_a_step_is_tried_three_times(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        real, failures = line.store.write, [OSError(errno.EIO, "as disks do")] * 2

        def write(*given: Any) -> None:
            if failures:
                raise failures.pop()
            real(*given)

        monkeypatch.setattr(line.store, "write", write)
        line.pull(Waiting(line.session_id, 1))
        assert len(line.chunks()) == 1
        assert line.stage("storage").errors_count == 0

    @pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "STORAGE_FULL"), (errno.EIO, "INTERNAL")])
    def test_after_that_the_session_says_what_it_lost(
        self, line: Line, monkeypatch: pytest.MonkeyPatch, number: int, code: str
    ) -> None:
        real = line.store.write

        def write(chunk_id: str, *given: Any) -> None:
            if chunk_id.endswith("2"):
                raise OSError(number, "no")
            real(chunk_id, *given)

        monkeypatch.setattr(line.store, "write", write)
        agent = Waiting(line.session_id, 3)
        line.pull(agent)
        assert agent.waiting == []
        assert [chunk.sequence_number for chunk in line.chunks()] == [1, 3]
        (gap,) = line.row().gaps
        assert gap["reason"] == code.lower()
        (error,) = line.sessions.records.errors(line.session_id, WHO)
        assert (error.code, error.stage) == (code, "storage")
        assert line.stage("storage").errors_count == 1
        assert (line.intake.full == "storage_full") == (code == "STORAGE_FULL")

    def test_an_object_that_cannot_be_made(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        def pack(*_: Any) -> bytes:
            raise ValueError("as a library may")

        monkeypatch.setattr(objects, "pack", pack)
        line.pull(Waiting(line.session_id, 1))
        assert line.chunks() == []
        stage = line.stage("processing")
        assert (stage.status, stage.error_message, stage.retry_count) == ("error", "as a library may", 3)
        assert line.sessions.records.pipeline(line.session_id, WHO)["pipeline_status"] == "error"


class TestKeys:
    def test_wrapped_anew_and_chunks_stay_as_they_are(self, line: Line, service: Desktops) -> None:
        line.pull(Waiting(line.session_id, 1))
        before = line.store.read(line.chunks()[0].chunk_id)
        old = service.shared.keyring.current
        new, count = service.upkeep.rotate_keys()
        assert (new != old, count >= 1) == (True, True)
        assert line.sessions.keys.of(line.session_id) == line.key
        assert line.store.read(line.chunks()[0].chunk_id) == before
        assert line.sessions.chunks.content(line.session_id, WHO, line.chunks()[0].chunk_id) == b"media"

    def test_the_database_does_not_have_it(self, line: Line, service: Desktops) -> None:
        with service.database.read() as session:
            wrapped = session.query(DataKey).filter_by(session_id=line.session_id).one().wrapped
        assert wrapped
        assert line.key.material.hex() not in wrapped

    def test_destroyed_with_its_session(self, line: Line) -> None:
        line.pull(Waiting(line.session_id, 1))
        line.sessions.records.delete(line.session_id, WHO)
        with pytest.raises(KeyDestroyed):
            line.sessions.keys.of(line.session_id)


class TestRetention:
    def expired(self, line: Line, archive: bool) -> None:
        line.pull(Waiting(line.session_id, 2))
        with line.service.database.transaction() as session:
            row = session.get_one(DeskSession, line.session_id)
            row.status, row.stopped_at = SessionStatus.STOPPED, now() - timedelta(days=31)
            row.storage_config = row.storage_config | {"archive_enabled": archive}

    def test_expired_objects_go_with_their_key(self, line: Line) -> None:
        self.expired(line, archive=False)
        assert line.sessions.retention.sweep() == 1
        assert line.sessions.retention.sweep() == 0
        assert {chunk.status for chunk in line.chunks()} == {"deleted"}
        with pytest.raises(OSError, match="No such file"):
            line.store.read(line.chunks()[0].chunk_id)
        with pytest.raises(KeyDestroyed):
            line.sessions.keys.of(line.session_id)
        assert line.sessions.records.get(line.session_id, WHO)["status"] == "stopped"

    def test_what_is_within_its_time_stays(self, line: Line) -> None:
        line.pull(Waiting(line.session_id, 1))
        assert line.sessions.retention.sweep() == 0

    def test_an_archive_takes_them(self, make_http: Any, tmp_path: Path) -> None:
        service: Desktops = make_http(archive_dir=tmp_path / "archive").app.state.desktops
        service.watch.stop()
        line = Line(service)
        self.expired(line, archive=True)
        assert line.sessions.retention.sweep() == 1
        assert len(list((tmp_path / "archive").rglob("*.lyck"))) == 2
        assert list(service.settings.chunks.rglob("*.lyck")) == []
        assert line.sessions.chunks.content(line.session_id, WHO, line.chunks()[1].chunk_id) == b"media" * 2


class TestScrub:
    def aged(self, line: Line) -> None:
        line.pull(Waiting(line.session_id, 3))
        with line.service.database.transaction() as session:
            session.execute(update(SessionChunk).values(created_at=now() - timedelta(days=2)))

    def test_what_is_well_is_checked_once_a_day(self, line: Line) -> None:
        self.aged(line)
        assert line.sessions.scrub.sweep() == 0
        first = [chunk.checked_at for chunk in line.chunks()]
        assert all(first)
        assert line.sessions.scrub.sweep() == 0
        assert [chunk.checked_at for chunk in line.chunks()] == first

    def test_what_was_committed_just_now_is_not(self, line: Line) -> None:
        line.pull(Waiting(line.session_id, 1))
        line.sessions.scrub.sweep()
        assert line.chunks()[0].checked_at is None

    def test_what_is_bad_is_on_record(self, line: Line, service: Desktops) -> None:
        self.aged(line)
        paths = sorted(service.settings.chunks.rglob("*.lyck"))
        paths[0].write_bytes(paths[0].read_bytes()[:-1] + b"x")
        paths[1].unlink()
        assert line.sessions.scrub.sweep() == 2
        found = line.sessions.records.errors(line.session_id, WHO)
        assert [error.message.partition(":")[0] for error in found] == [path.stem for path in paths[:2]]
        with service.database.read() as session:
            assert session.query(AuditEntry).filter_by(event_type="integrity", action="check").count() == 2


def test_sessions_do_not_share_keys(service: Desktops) -> None:
    one, two = Line(service), Line(service)
    assert one.key.key_id != two.key.key_id
    assert one.key.material != two.key.material
