"""labyard-verify finds every change."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labyard.desktops.evidence import ledger, objects
from labyard.desktops.evidence.verify import main

from .evidence import NOON, SESSION, SIGNER, Recording, record


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return record(tmp_path)


def flip_bits(path: Path, check: list[str]) -> list[int]:
    """The bits whose flip was not noticed. Every 29th: all of them take a minute."""
    data = path.read_bytes()
    missed = []
    for bit in range(0, len(data) * 8, 29):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        if main(check) != 1:
            missed.append(bit)
    path.write_bytes(data)
    return missed


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


class TestGood:
    def test_all_three(self, recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(recording.session()) == main(recording.ledger()) == main(recording.chunk(3)) == 0
        assert capsys.readouterr().out.count("good: ") == 3

    @pytest.mark.parametrize("chunks", [0, 1, 2])
    def test_small_sessions(self, tmp_path: Path, chunks: int) -> None:
        assert main(record(tmp_path, chunks).session()) == 0

    def test_a_key_in_hex_does_too(self, recording: Recording) -> None:
        raw = SIGNER.public.public_bytes_raw().hex()
        Path(recording.key).write_text(raw + "\n")
        assert main(recording.ledger()) == 0

    def test_a_ledger_that_grew_since_its_head(self, recording: Recording) -> None:
        head = SIGNER.head([ledger.entry_leaf(entry) for entry in recording.entries[:2]], NOON)
        (recording.folder / "head.json").write_text(json.dumps(head))
        assert main(recording.ledger()) == 0

    def test_as_a_program_without_database_library(self, recording: Recording) -> None:
        """In a fresh process: it loads nothing of the service."""
        code = (
            "import sys; from labyard.desktops.evidence.verify import main; status = main(sys.argv[1:]);"
            "assert not {'sqlalchemy', 'fastapi', 'redis', 'av'} & set(sys.modules); sys.exit(status)"
        )
        done = subprocess.run([sys.executable, "-c", code, *recording.session()], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


class TestBad:
    def test_flipped_bits_of_a_proof(self, recording: Recording) -> None:
        name = objects.chunk_id(SESSION, 2)
        assert flip_bits(recording.folder / f"{name}.json", recording.chunk(2)) == []

    @pytest.mark.parametrize("name", ["bundle.json", "objects/sess-0123456789abcdef-c000002.lyck"])
    def test_flipped_bits_of_a_session(self, recording: Recording, name: str) -> None:
        assert flip_bits(recording.folder / name, recording.session()) == []

    @pytest.mark.parametrize("name", ["ledger.jsonl", "head.json"])
    def test_flipped_bits_of_a_ledger(self, recording: Recording, name: str) -> None:
        assert flip_bits(recording.folder / name, recording.ledger()) == []

    def test_names_the_first_bad_chunk(self, recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
        for number in (4, 2):
            path = Path(recording.chunk(number)[-2])
            path.write_bytes(path.read_bytes() + b"\0")
        assert main(recording.session()) == 1
        assert "chunk sess-0123456789abcdef-c000002" in capsys.readouterr().err

    def test_chunks_in_another_order(self, recording: Recording) -> None:
        one, two = (Path(recording.chunk(number)[-2]) for number in (1, 2))
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        assert main(recording.session()) == 1

    def test_a_chunk_too_few_and_a_chunk_too_many(self, recording: Recording) -> None:
        last = Path(recording.chunk(5)[-2])
        data = last.read_bytes()
        last.unlink()
        assert main(recording.session()) == 1
        last.write_bytes(data)
        last.with_name("sess-0123456789abcdef-c000006.lyck").write_bytes(data)
        assert main(recording.session()) == 1

    @pytest.mark.parametrize(
        "change",
        [
            lambda bundle: bundle["manifest"]["chunks"].reverse(),
            lambda bundle: bundle["manifest"]["gaps"].append({}),
            lambda bundle: bundle["entry"].update(chunk_count=4),
            lambda bundle: bundle.update(entry=[]),
            lambda bundle: bundle.update(note=""),
            lambda bundle: bundle["inclusion"].update(path=[]),
            lambda bundle: bundle["head"].update(tree_size=3),
            lambda bundle: bundle["entry"].update(signature=bundle["entry"]["signature"].upper()),
        ],
    )
    def test_a_changed_bundle(self, recording: Recording, change: Callable[[Any], object]) -> None:
        rewrite(recording.folder / "bundle.json", change)
        assert main(recording.session()) == 1

    def test_an_entry_cut_out_or_exchanged(self, recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
        path = recording.folder / "ledger.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        for kept in (lines[:2] + lines[3:], lines[:3], [lines[1], lines[0], *lines[2:]], lines[1:], []):
            path.write_bytes(b"".join(kept))
            assert main(recording.ledger()) == 1
        assert "entry 3: stands where entry 2 belongs" in capsys.readouterr().err

    def test_another_ledgers_key(self, recording: Recording) -> None:
        Path(recording.key).write_text("11" * 32)
        assert main(recording.ledger()) == 1


class TestUnusable:
    def test_no_such_file(self, recording: Recording) -> None:
        (recording.folder / "bundle.json").unlink()
        assert main(recording.session()) == 2

    @pytest.mark.parametrize("key", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
    def test_no_key(self, recording: Recording, key: str, capsys: pytest.CaptureFixture[str]) -> None:
        Path(recording.key).write_text(key)
        assert main(recording.session()) == 2
        assert "holds no public key" in capsys.readouterr().err

    def test_no_arguments(self) -> None:
        with pytest.raises(SystemExit) as ended:
            main([])
        assert ended.value.code == 2
