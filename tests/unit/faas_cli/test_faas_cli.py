"""`labyard faas …` against the daemon's own API (see daemon.py)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from labyard.cli import app

from .conftest import TOKEN, Run
from .daemon import Daemon


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


# -- deploy ----------------------------------------------------------------------------------------------------------


def test_a_file_is_deployed(run: Run, daemon: Daemon, image: Path) -> None:
    said = run("deploy", "hello", str(image), "--memory", "64M", "--timeout", "2.5").stdout
    assert "✔ hello answers at 127.8.0.10" in said
    assert "python3 /app/handler.py 'a b'" in said and "unpacked" in said
    assert "cannot enforce: cpu" in said
    assert "labyard faas invoke hello" in said
    function = daemon.service.registry.all()["hello"]
    assert function.limits == {"memory": "64M", "timeout": "2.5"}
    assert "was there already" in run("deploy", "again", str(image)).stdout


def test_standard_input_is_deployed(run: Run, daemon: Daemon, image: Path) -> None:
    answer = parsed(run("deploy", "hello", "-", "--json", input=image.read_bytes()))
    assert (answer["name"], answer["ip"], answer["reused"]) == ("hello", "127.8.0.10", False)
    assert "nothing came on standard input" in run("deploy", "other", "-", expect=1, input=b"").stderr
    assert list(daemon.service.registry.all()) == ["hello"]


DOCKER = """\
#!/bin/sh
case "$2" in
inspect) [ "$6" = my/handler:1 ] || { echo "Error: No such image: $6" >&2; exit 1; }; echo 10240 ;;
save) cat "$IMAGE"; exit ${SAVED:-0} ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `docker` that has one image."""
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text(DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("IMAGE", str(image))
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.mark.usefixtures("docker")
def test_an_image_of_docker_is_deployed(run: Run) -> None:
    assert "hello answers at" in run("deploy", "hello", "my/handler:1").stdout
    refused = run("deploy", "hello", "gone:1", expect=1).stderr
    assert "there is no file gone:1, and no image of that name in Docker here: Error: No such image" in refused


@pytest.mark.usefixtures("docker")
def test_an_image_that_docker_does_not_give_whole_changes_nothing(
    run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAVED", "7")
    assert "exited with 7" in run("deploy", "hello", "my/handler:1", expect=1).stderr
    assert daemon.service.registry.all() == {}


def test_without_docker_only_files(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "there is no file gone.tar, and no docker here" in run("deploy", "hello", "gone.tar", expect=1).stderr


def test_refusals_have_a_way_out(run: Run, daemon: Daemon, image: Path, tmp_path: Path) -> None:
    junk, empty = tmp_path / "junk.tar", tmp_path / "empty.tar"
    empty.touch()
    junk.write_bytes(b"\0" * 10240)
    assert "docker save IMAGE" in run("deploy", "x", str(empty), expect=1).stderr
    assert "manifest.json not found; docker save IMAGE" in run("deploy", "x", str(junk), expect=1).stderr
    assert "is a folder" in run("deploy", "x", str(tmp_path), expect=1).stderr
    assert "Invalid image name '../x'" in run("deploy", "../x", str(image), expect=1).stderr
    assert "Invalid image name" in run("deploy", "ä\nb", str(image), expect=1).stderr
    assert "limit memory" in run("deploy", "x", str(image), "--memory", "lots", expect=1).stderr
    assert daemon.service.registry.all() == {}
    for name in ("a", "b", "c"):
        run("deploy", name, str(image))
    assert "No IPs available; take one away: labyard faas rm" in run("deploy", "d", str(image), expect=1).stderr


# -- list, show, rm --------------------------------------------------------------------------------------------------


def test_what_is_deployed_is_shown(run: Run, daemon: Daemon, hello: str) -> None:
    daemon.ask("127.8.0.10")
    assert re.search(r"hello +│ 127\.8\.0\.10 │ python3 /app/handler.py 'a b' +│ +1 │ +0 │ +0 ", run("list").stdout)
    assert parsed(run("list", "--json"))["hello"]["ip"] == "127.8.0.10"
    shown = run("show", hello).stdout
    for word in ("512 MiB", "1 of a core", "30 s", "0:0", "not enforced here", "cpu", "1 requests, median 0.9 ms"):
        assert word in shown
    assert parsed(run("show", hello, "--json"))["limits"]["pids"] == 64


def test_nothing_is_there_yet(run: Run) -> None:
    assert "labyard faas deploy NAME" in run("list").stdout
    assert "labyard faas deploy NAME" in run("stats").stdout
    assert "there are: none yet" in run("show", "hello", expect=1).stderr


def test_functions_are_taken_away(run: Run, daemon: Daemon, hello: str) -> None:
    assert "there is no function 'helo'; there are: hello" in run("rm", "helo", expect=1).stderr
    assert "there is no function 'a/../b'" in run("show", "a/../b", expect=1).stderr
    assert "hello is taken away" in run("rm", hello).stdout
    assert daemon.service.registry.all() == {}


# -- invoke ----------------------------------------------------------------------------------------------------------


def test_a_function_is_asked(run: Run, hello: str) -> None:
    result = run("invoke", hello)
    assert result.stdout == "GET / \n"
    assert re.match(
        r"200 OK  [\d.]+ ms \(connected [\d.]+ ms, first byte [\d.]+ ms\), from this machine", result.stderr
    )
    assert run("invoke", hello, "a/b?c", "-X", "put", "-H", "X-Test: yes").stdout == "PUT /a/b?c yes\n"
    assert "Content-Type: text/plain" in run("invoke", hello, "-i").stderr


def test_a_body_is_sent(run: Run, hello: str, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"\0\xff")
    assert run("invoke", hello, "-d", "text").stdout == "POST / \ntext"
    assert run("invoke", hello, "-d", f"@{file}").stdout_bytes == b"POST / \n\0\xff"
    assert run("invoke", hello, "-d", "@-", input=b"piped").stdout == "POST / \npiped"
    assert "No such file" in run("invoke", hello, "-d", "@/nowhere", expect=1).stderr
    assert "is not NAME: VALUE" in run("invoke", hello, "-H", "X-Test", expect=1).stderr


def test_an_answer_for_programs(run: Run, hello: str) -> None:
    answer = parsed(run("invoke", hello, "--json"))
    assert (answer["status"], answer["body"], answer["from"]) == (200, "GET / \n", "this machine")
    assert 0 <= answer["connected"] <= answer["first"] <= answer["last"]


def test_a_failure_comes_with_what_the_handler_wrote(run: Run, daemon: Daemon, hello: str) -> None:
    daemon.service.fail = "handler exited with code 3 before it connected"
    result = run("invoke", hello, expect=1)
    assert parsed(result)["detail"] == daemon.service.fail
    assert result.stderr.startswith("502 handler exited with code 3 before it connected")
    assert "it broke" in result.stderr and "labyard faas logs hello --failed" in result.stderr
    told = parsed(run("invoke", hello, "--json", expect=1))
    assert (told["status"], told["request"]["stderr"]) == (502, "it broke\nhere\n")


def test_no_answer_at_all(run: Run, daemon: Daemon, hello: str) -> None:
    daemon.service.fail = "close"
    refused = run("invoke", hello, expect=1).stderr
    assert "was closed after" in refused and "labyard faas logs hello --last 1" in refused


# -- logs, stats -----------------------------------------------------------------------------------------------------


def test_requests_are_told(run: Run, daemon: Daemon, hello: str) -> None:
    assert "No request of hello came yet" in run("logs", hello).stdout
    daemon.ask("127.8.0.10")
    assert "No request of hello failed" in run("logs", hello, "--failed").stdout
    daemon.service.fail = "handler exited with code 3 before it connected"
    daemon.ask("127.8.0.10")
    lines = run("logs", hello).stdout.splitlines()
    assert re.search(r"ok +0.9 ms  parked  127", lines[0])
    assert re.search(r"exited +42 ms  cold .*answered 502 for it  exit code 3", lines[1])
    assert lines[2:] == ["    it broke", "    here"]
    assert [one["result"] for one in parsed(run("logs", hello, "--json"))] == ["exited", "ok"]
    assert [one["result"] for one in parsed(run("logs", hello, "--failed", "--json"))] == ["exited"]
    assert len(parsed(run("logs", hello, "--last", "1", "--json"))) == 1


def test_times_are_drawn(run: Run, daemon: Daemon, hello: str) -> None:
    for _ in range(3):
        daemon.ask("127.8.0.10")
    daemon.service.fail = "handler exited with code 3 before it connected"
    daemon.ask("127.8.0.10")
    assert re.search(r"hello +│ +4 │ +1 │ +0 │ +0 │ 0.9 ms │ 0.9 ms │ ▁▁▁▅", run("stats").stdout)
    shown = run("stats", hello).stdout
    assert "4 requests, 1 exited, median 0.9 ms" in shown
    assert re.search(r"≤ 1 ms ███ 3\n +≤ 2 ms +0\n(.*\n)*≤ 50 ms █ +1", shown)
    assert parsed(run("stats", hello, "--json"))["results"] == {"ok": 3, "exited": 1}
    assert parsed(run("stats", "--json"))["functions"]["hello"]["requests"] == 4


# -- check -----------------------------------------------------------------------------------------------------------


def test_differences_are_found_and_mended(run: Run, daemon: Daemon, hello: str) -> None:
    well = run("check").stdout
    assert "nothing else" in well and "cannot enforce these limits: cpu" in well
    daemon.addresses.there.clear()
    assert re.search(r"missing │ address │ 127.8.0.10 .*labyard faas check --repair", run("check", expect=1).stdout)
    assert len(parsed(run("check", "--json", expect=1))["issues"]) == 1
    assert "mended" in run("check", "--repair").stdout
    assert parsed(run("check", "--json"))["health"]["status"] == "ok"


def test_what_cannot_be_mended_has_a_way_out(run: Run, daemon: Daemon, hello: str) -> None:
    tree = daemon.service.rootfs(daemon.service.registry.all()[hello])
    tree.rename(tree.with_name("gone"))
    assert "labyard faas deploy hello" in run("check", "--repair", expect=1).stdout


# -- where the daemon is ---------------------------------------------------------------------------------------------


def test_the_token(run: Run, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABYARD_FAAS_TOKEN_FILE")
    assert "a valid token is needed; give it with --token" in run("list", expect=1).stderr
    run("--token", TOKEN, "list")
    assert "No such file" in run("--token-file", str(tmp_path / "none"), "list", expect=1).stderr


def test_the_inventory_says_where_the_daemon_is(daemon: Daemon, image: Path, tmp_path: Path) -> None:
    host = {
        "ansible_connection": "local",
        "lab_roles": ["faas"],
        "faas_api_bind": ["127.0.0.1"],
        "faas_api_port": int(daemon.url.rpartition(":")[2]),
        "faas_token": TOKEN,
        "faas_function_port": daemon.port,
    }
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"one": host}}}))

    def call(*words: str) -> Result:
        result = CliRunner().invoke(app, ["faas", "--inventory", str(tmp_path / "hosts.yml"), *words])
        assert result.exit_code == 0, result.output
        return result

    call("deploy", "hello", str(image))
    # Sent by a program of its own on the host, which is this machine here.
    answer = call("invoke", "hello", "/there", "-d", "text")
    assert answer.stdout == "POST /there \ntext" and answer.stderr.rstrip().endswith("from one")


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def call(*words: str) -> str:
        result = CliRunner().invoke(app, ["faas", *words])
        assert result.exit_code == 1, result.output
        return result.stderr

    assert "make lab" in call("--url", "http://127.0.0.1:1", "list")
    assert "write it as http://HOST:PORT" in call("--url", "nowhere", "list")
    (tmp_path / "hosts.yml").write_text("all: {hosts: {one: {lab_roles: [dhcp]}}}\n")
    said = call("--inventory", str(tmp_path / "hosts.yml"), "list")
    assert "has faas among its lab_roles" in said and "LABYARD_FAAS_URL" in said
