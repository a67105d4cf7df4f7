"""`labyard faas …` against the real daemon, from deploy to rm, as a person uses it on the daemon's host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

from labyard.testing.faas.host import Host


def labyard(host: Host, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LABYARD_FAAS_URL": "http://localhost:8080", "COLUMNS": "200"}
    done = host.run(sys.executable, "-m", "labyard.cli", "faas", *words, check=False, env=environment)
    assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return done


def test_from_deploy_to_rm(host: Host, image: Callable[..., bytes]) -> None:
    # Not below /tmp, which that host has for itself.
    folder = host.path("/var/lib/images")
    folder.mkdir()
    for name, mode in (("good", ["echo"]), ("bad", ["exit-early", "3"])):
        (folder / f"{name}.tar").write_bytes(image(*mode))
    host.start(warm=0)

    assert "good answers at 10.0.0.10" in labyard(host, "deploy", "good", "/var/lib/images/good.tar").stdout
    labyard(host, "deploy", "bad", "/var/lib/images/bad.tar", "--warm", "0", "--memory", "64M")
    assert json.loads(labyard(host, "show", "bad", "--json").stdout)["limits"]["memory"] == 64 << 20

    answer = labyard(host, "invoke", "good", "/a/path", "-X", "PUT")
    assert answer.stderr.startswith("200 OK")
    assert "Request: PUT /a/path HTTP/1.1" in answer.stdout
    failure = labyard(host, "invoke", "bad", code=1)
    assert failure.stderr.startswith("502 handler exited with code 3 before it connected")
    assert "something is wrong" in failure.stderr

    for name in ("good", "bad"):
        host.last(name)
    records = json.loads(labyard(host, "logs", "bad", "--json").stdout)
    assert [(record["result"], record["exit_code"]) for record in records] == [("exited", 3)]
    assert "1 requests, median" in labyard(host, "stats", "good").stdout
    assert "nothing else" in labyard(host, "check").stdout
    labyard(host, "rm", "good", "bad")
    assert host.addresses().keys() == {"127.0.0.1/8"}
