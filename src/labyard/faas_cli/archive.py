"""Where the image archive of a deploy comes from: a file, standard input, or the Docker engine of this machine."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from labyard.client.http import ClientError

PIECE = 1 << 18  # bytes
STANDARD_INPUT = "-"

Report = Callable[[int], None]  # bytes that have been sent


class Archive:
    """An image archive. `length` is its bytes where they are known, `about` how many it will be, more or less."""

    length: int | None = None
    about: int | None = None

    def __init__(self) -> None:
        self.sent = 0
        self.report: Report = lambda sent: None

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, once. Each piece is reported after it was sent."""
        for piece in self._read():
            yield piece
            self.sent += len(piece)
            self.report(self.sent)

    def _read(self) -> Iterator[bytes]:
        raise NotImplementedError


class FileArchive(Archive):
    """ClientError when the file cannot be read or is empty."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self._file = path.open("rb")
            self.length = self.about = path.stat().st_size
        except OSError as error:
            raise ClientError(f"{path}: {error.strerror}") from error
        if not self.length:
            raise ClientError(f"{path} is empty; docker save IMAGE writes an archive")

    def _read(self) -> Iterator[bytes]:
        with self._file:
            yield from _pieces(self._file)


class InputArchive(Archive):
    """ClientError when there is nothing on standard input."""

    def __init__(self) -> None:
        super().__init__()
        self._first = sys.stdin.buffer.read(PIECE)
        if not self._first:
            raise ClientError("nothing came on standard input; so: docker save IMAGE | labyard faas deploy NAME -")

    def _read(self) -> Iterator[bytes]:
        yield self._first
        yield from _pieces(sys.stdin.buffer)


class DockerArchive(Archive):
    """An image of this machine's engine, as `docker save` writes it. ClientError when it has none of that name."""

    def __init__(self, image: str) -> None:
        super().__init__()
        if not shutil.which("docker"):
            raise ClientError(f"there is no file {image}, and no docker here that could have an image of that name")
        shown = subprocess.run(
            ["docker", "image", "inspect", "--format", "{{.Size}}", "--", image], capture_output=True, text=True
        )
        if shown.returncode != 0:
            said = (shown.stderr.strip().splitlines() or ["docker image inspect failed"])[-1]
            raise ClientError(f"there is no file {image}, and no image of that name in Docker here: {said}")
        self.about = int(shown.stdout)
        self._image = image

    def _read(self) -> Iterator[bytes]:
        command = ["docker", "image", "save", "--", self._image]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as saving:
            assert saving.stdout is not None and saving.stderr is not None
            try:
                yield from _pieces(saving.stdout)
            except GeneratorExit:
                saving.kill()
                raise
            said = saving.stderr.read().decode(errors="replace").strip()
        # Before the end is told: what came so far must not be taken for all of it.
        if saving.returncode != 0:
            raise ClientError(f"{shlex.join(command)} exited with {saving.returncode}: {said}")


def archive_of(source: str) -> Archive:
    """The archive that a word of the command line names."""
    if source == STANDARD_INPUT:
        return InputArchive()
    path = Path(source).expanduser()
    if path.is_dir():
        raise ClientError(f"{source} is a folder; make an archive of it: tar -C {shlex.quote(source)} -cf image.tar .")
    return FileArchive(path) if path.exists() else DockerArchive(source)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece
