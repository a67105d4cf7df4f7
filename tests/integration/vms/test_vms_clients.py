"""Commands and modules against the real service in dry run: one story each. Every case of theirs is in tests/unit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer
from ports import free_port
from structlog.testing import capture_logs
from typer.testing import CliRunner

from labyard.cli import app
from labyard.vms.app import build
from labyard.vms.client import Client
from labyard.vms.settings import Settings

CHECKOUT = Path(__file__).parents[3]
TOKEN = "a-token-of-the-lab"


@pytest.fixture
def live(dry_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    """The service, named by the environment."""
    for name in [name for name in os.environ if name.startswith("LABYARD_")]:
        monkeypatch.delenv(name)
    settings = Settings.model_validate(dry_settings.model_dump() | {"api_token": TOKEN})
    # What the service logs in its thread would stand between what a command prints.
    with capture_logs():
        server = LiveServer(lambda: build(settings), free_port())
        monkeypatch.setenv("LABYARD_VMS_URL", server.url)
        monkeypatch.setenv("LABYARD_VMS_TOKEN", TOKEN)
        yield server
        server.stop()


@pytest.fixture
def run(live: LiveServer) -> Callable[..., str]:
    def call(*words: str, expect: int = 0) -> str:
        result = CliRunner().invoke(app, ["vms", *words])
        assert result.exit_code == expect, f"{words}: {result.output} {result.exception!r}"
        return result.stdout if expect == 0 else result.stderr

    return call


def test_commands_from_template_to_nothing(run: Callable[..., str], live: LiveServer) -> None:
    run("templates", "create", "small", "--cpus", "1", "--memory", "512")
    run("create", "web-1", "small", "--hostname", "web.lab", "--start")
    (vm,) = json.loads(run("list", "--state", "running", "--json"))
    assert vm["local_ip"] and vm["vm_template"]["ram_amount"] == 512
    disk = json.loads(run("disks", "create", "5", "--label", "data", "--attach", "web-1", "--json"))
    assert (disk["vm_id"], disk["mount_point"], disk["state"]) == ("web-1", "data", "attached")
    assert json.loads(run("metadata", "show", "web-1", "--json"))["hostname"] == "web.lab"
    assert json.loads(run("network", "--json"))["leases"][0]["ip"] == vm["local_ip"]
    for words, told in (
        (("templates", "delete", "small"), "labyard vms list"),
        (("templates", "create", "small"), "never changes"),
        (("create", "web-2", "none"), "labyard vms templates"),
        (("create", "web-1", "small"), "labyard vms start web-1"),
        (("start", "web-1"), "labyard vms restart web-1"),
        (("disks", "attach", "data", "web-1"), "labyard vms disks detach"),
        (("disks", "delete", "data"), "labyard vms disks detach"),
        (("stop", "nobody"), "there are: web-1"),
        (("--token", "wrong", "list"), "LABYARD_VMS_TOKEN"),
    ):
        assert told in run(*words, expect=1), words
    run("restart", "web-1")
    run("disks", "detach", "data")
    run("disks", "delete", disk["id"])
    run("stop", "web-1")
    run("metadata", "clear", "web-1")
    run("delete", "web-1")
    run("templates", "delete", "small")
    with Client(live.url, TOKEN) as api:
        assert (api.templates(), api.vms(), api.disks()) == ([], [], [])
        assert api.health()["service"] == "labyard-vms" and api.observer()["status"] == "running"
        assert api.check()["issues"] == []


@pytest.mark.parametrize("name", ["..", "a b", "%2e", "ü?x#y"])
def test_any_name_stays_one_segment_of_the_path(live: LiveServer, name: str) -> None:
    with Client(live.url, TOKEN) as api:
        api.create_template(name, 1, 4)
        api.delete_template(name)
        assert api.templates() == []


def test_console_is_followed(live: LiveServer, dry_settings: Settings) -> None:
    with Client(live.url, TOKEN) as api:
        api.create_template("small", 1, 4)
        api.create_vm("web-1", "small")
        file = dry_settings.storage_path / "vms/web-1/console.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("first\n")
        following = api.follow("web-1")
        assert next(following) == "first\n"
        with file.open("a") as more:
            more.write("second\n")
        assert next(piece for piece in following if piece) == "second\n"


PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "module_defaults": {
            f"labyard.lab.{name}": {"url": "{{ url }}", "token": "{{ token }}"}
            for name in ("vm_template", "vm", "vm_disk")
        },
        "tasks": [
            {"labyard.lab.vm_template": {"name": "small", "cpu_count": 1, "ram_amount": 512}},
            {"labyard.lab.vm": {"name": "web-1", "template": "small", "ssh_keys": ["ssh-rsa A a"], "state": "running"}},
            {"labyard.lab.vm_disk": {"name": "data", "size": 5, "vm": "web-1"}},
        ],
    }
]


def test_modules_run_by_ansible_change_nothing_the_second_time(live: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "play.yml"
    file.write_text(json.dumps(PLAY))

    def play(*options: str) -> dict[str, Any]:
        variables = {"url": live.url, "token": TOKEN, "ansible_python_interpreter": sys.executable}
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local", *options]
        settings = {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        done = subprocess.run(
            [*command, "-e", json.dumps(variables), str(file)],
            env=os.environ | settings,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["stats"]["localhost"]
        return found

    with Client(live.url, TOKEN) as api:
        assert play("--check")["changed"] == 3 and api.templates() == []
        assert play()["changed"] == 3
        assert api.vm("web-1")["state"] == "running" and api.disk("data")["vm_id"] == "web-1"
        assert play()["changed"] == 0
