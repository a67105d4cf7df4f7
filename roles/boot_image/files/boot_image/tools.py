# Part of the role boot_image
"""What all parts use: running programs, reading inputs, folders that go away again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

SECTOR = 512
MIB = 1024 * 1024
# 1980-01-02, the first full day that FAT can tell in every time zone. A fixed date makes the same image twice.
EPOCH = 315619200


class BuildError(Exception):
    """Something that the person at the command line can put right."""


def run(argv: Sequence[str | Path], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program and return what it printed."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise BuildError(f"{argv[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{' '.join(map(str, argv))}: {error.stderr.strip() or error.stdout.strip()}") from error
    return done.stdout


def pipe(argv: Sequence[str], data: bytes) -> bytes:
    """What a program makes of its standard input."""
    try:
        return subprocess.run(argv, input=data, check=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise BuildError(f"{argv[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{' '.join(argv)}: {error.stderr.decode(errors='replace').strip()}") from error


def read(path: Path) -> bytes:
    """Content of an input file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from error


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder next to the result, on the same file system, gone afterwards whatever happens."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".boot-image-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
