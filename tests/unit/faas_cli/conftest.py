from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from labyard.cli import app
from labyard.client import commands
from labyard.faas_cli import where
from labyard.testing.faas.archives import docker_archive, layer

from .daemon import Daemon

Run = Callable[..., Result]
TOKEN = "a token of tests"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def daemon(tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    # Its log must not be in the commands' output: they are one process here.
    monkeypatch.setattr("labyard.faas.log.sys", SimpleNamespace(stdout=io.StringIO()))
    daemon = Daemon(tmp_path, API_TOKEN_FILE=token_file)
    monkeypatch.setattr(where, "FUNCTION_PORT", daemon.port)
    yield daemon
    daemon.close()


@pytest.fixture
def run(daemon: Daemon, token_file: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as a shell does, with the daemon named by the environment."""
    monkeypatch.setenv("LABYARD_FAAS_URL", daemon.url)
    monkeypatch.setenv("LABYARD_FAAS_TOKEN_FILE", str(token_file))
    monkeypatch.setattr(commands.console, "_width", 200)

    def call(*words: str, expect: int = 0, input: bytes | None = None) -> Result:
        result = CliRunner().invoke(app, ["faas", *words], input=input)
        assert result.exit_code == expect, f"{words}: {result.output} {result.exception!r}"
        return result

    return call


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image.tar"
    file.write_bytes(docker_archive([layer({"app/handler.py": b"print()"})], Cmd=["python3", "/app/handler.py", "a b"]))
    return file


@pytest.fixture
def hello(run: Run, image: Path) -> str:
    run("deploy", "hello", str(image))
    return "hello"
