"""The whole process: settings from the environment, a real uvicorn, a clean end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ports import free_port
from pydantic_settings import SettingsConfigDict

from labyard.core.serve import serve
from labyard.core.settings import ServiceSettings
from labyard.testing.waiting import PATIENCE, wait_until

PROGRAM = """
import threading
import time
from fastapi import APIRouter
from pydantic_settings import SettingsConfigDict
from labyard.core.app import ServiceInfo, create_app
from labyard.core.auth import Auth
from labyard.core.database import Base, Database
from labyard.core.serve import serve
from labyard.core.settings import ServiceSettings

class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LAB_", extra="ignore")

router = APIRouter(prefix="/slow")
together = threading.Barrier(100)

@router.get("/meet")
def meet() -> str:
    together.wait(60)
    return "done"

@router.get("/work")
def work() -> str:
    print('{"event": "at work"}', flush=True)
    time.sleep(1)
    return "done"

def build(settings):
    database = Database(f"sqlite:///{settings.state_dir}/x.db")
    Base.metadata.create_all(database.engine)
    info = ServiceInfo("lab", "Lab", "", "1", "lab")
    return create_app(info, settings, database, Auth(database, settings, "lab"), [router],
                      on_stop=[lambda: print('{"event": "stopped"}', flush=True)])

serve(Settings, build)
"""


class Running:
    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.port = int(environment.pop("port", "0")) or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        values = {"LAB_STATE_DIR": str(folder), "LAB_HTTP_HOST": "127.0.0.1", "LAB_HTTP_PORT": str(self.port)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, **values, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_up(self) -> None:
        # One client, since each reads the certificate authorities.
        with httpx.Client(timeout=PATIENCE) as client:

            def lives() -> bool:
                assert self.process.poll() is None, "the service has ended"
                return client.get(f"{self.url}/health/live").is_success

            wait_until(lives, "the service is up", 2 * PATIENCE, despite=httpx.TransportError)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    running.wait_until_up()
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


class TestRunning:
    def test_serves_a_hundred_at_once_and_ends_cleanly(self, running: Running) -> None:
        headers = {"X-Request-ID": "req-1", "X-Forwarded-For": "6.6.6.6"}
        answer = httpx.get(f"{running.url}/metrics", headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200
        assert "server" not in answer.headers
        connections = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(100)]
        for connection in connections:
            connection.sendall(b"GET /api/v1/slow/meet HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for connection in connections:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.close()
        running.process.send_signal(signal.SIGTERM)
        code, out, err = running.end()
        assert (code, err) == (0, "")
        lines = [json.loads(line) for line in out.splitlines()]
        assert "stopped" in [line["event"] for line in lines]
        (mine,) = [line for line in lines if line.get("request_id") == "req-1"]
        assert mine["client"] == "127.0.0.1"  # uvicorn by itself would believe a proxy on this machine
        assert "6.6.6.6" not in out

    def test_a_request_in_flight_is_answered_before_the_end(self, running: Running) -> None:
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(b"GET /api/v1/slow/work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert running.process.stdout and any("at work" in line for line in running.process.stdout)
            running.process.send_signal(signal.SIGTERM)
            answer = b""
            while data := connection.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b'"done"')
        assert running.end()[0] == 0

    def test_wrong_settings_end_the_process_with_2(self, tmp_path: Path) -> None:
        code, out, err = Running(tmp_path, LAB_HTTP_PORT="abc").end()
        assert (code, out) == (2, "")
        assert "LAB_HTTP_PORT is 'abc'" in err and "Traceback" not in err


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LAB_", extra="ignore")


class TestRefusing:
    def ends(self, monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> int:
        monkeypatch.setattr(sys, "argv", ["labyard", *arguments])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as caught:
            serve(Settings, lambda settings: pytest.fail("was built in spite of wrong settings"))
        assert isinstance(caught.value.code, int)
        return caught.value.code

    @pytest.mark.parametrize(
        ("environment", "said"),
        [
            ({"LAB_HTTP_PORT": "abc"}, "LAB_HTTP_PORT is 'abc'"),
            ({"LAB_HTTP_PORT": "70000"}, "LAB_HTTP_PORT is '70000'"),
            ({"LAB_TRUSTED_PROXIES": "10.0.0.1,x"}, "LAB_TRUSTED_PROXIES is '10.0.0.1,x'"),
            ({"LAB_LOG_LEVEL": "loud"}, "LAB_LOG_LEVEL is 'loud'"),
            ({"LAB_ENVIRONMENT": "production"}, "LAB_SECRET_KEY must have at least 32"),
            (
                {"LAB_ENVIRONMENT": "production", "LAB_SECRET_KEY": "swordfish" * 4, "LAB_ADMIN_PASSWORD": "admin123"},
                "LAB_ADMIN_PASSWORD must be set",
            ),
        ],
    )
    def test_wrong_settings(
        self,
        environment: dict[str, str],
        said: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.ends(monkeypatch, **environment) == 2
        err = capsys.readouterr().err
        assert said in err and "swordfish" not in err
        assert len(err.splitlines()) == 3

    def test_says_all_that_is_wrong(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.ends(monkeypatch, LAB_HTTP_PORT="0", LAB_ACCESS_TOKEN_MINUTES="-1") == 2
        err = capsys.readouterr().err
        assert "LAB_HTTP_PORT" in err and "LAB_ACCESS_TOKEN_MINUTES" in err

    def test_a_port_in_use(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("labyard.core.logging.configure", lambda level, handlers: None)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = str(listening.getsockname()[1])
            assert self.ends(monkeypatch, LAB_HTTP_HOST="127.0.0.1", LAB_HTTP_PORT=port) == 2
        assert capsys.readouterr().err == (
            f"Cannot listen on 127.0.0.1 port {port}: Address already in use. "
            "Set LAB_HTTP_HOST and LAB_HTTP_PORT to a free address of this host.\n"
        )

    def test_arguments(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.ends(monkeypatch, "--port", "80") == 2
        assert "--help" in capsys.readouterr().err

    def test_help_lists_the_settings(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.ends(monkeypatch, "--help") == 0
        out = capsys.readouterr().out
        assert "LAB_HTTP_PORT [8000]" in out
        assert "LAB_SECRET_KEY\n" in out
