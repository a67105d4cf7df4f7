"""What a guest reads about itself over HTTP (contract section 8), from a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from labyard.testing.waiting import PATIENCE, wait_until
from labyard.vms.metadata_server import MetadataServer
from labyard.vms.schemas import MetadataUpdate

from .conftest import Lab

VERSIONS = ("latest", "2009-04-04")


@pytest.fixture
def server(lab: Lab) -> Iterator[MetadataServer]:
    server = MetadataServer(("127.0.0.1", 0), lab.manager.metadata.guest_at)
    server.start()
    assert server.status == "running"
    yield server
    server.stop()
    assert server.status == "stopped"


@pytest.fixture
def guest(lab: Lab, server: MetadataServer) -> Iterator[httpx.Client]:
    """A client with the address of a running machine."""
    lab.make(running=True)
    lab.sql("UPDATE vms SET local_ip='127.0.0.1'")
    host, port = server.address
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE) as client:
        yield client


def body(guest: httpx.Client, path: str) -> str | None:
    answer = guest.get(path)
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.status_code in (200, 404)
    return answer.text if answer.status_code == 200 else None


@pytest.mark.parametrize("version", VERSIONS)
def test_every_path(lab: Lab, guest: httpx.Client, version: str) -> None:
    keys, script = "ssh-ed25519 one\nssh-rsa two", "#!/bin/sh\necho žena\n"
    lab.manager.metadata.update("web", MetadataUpdate(hostname="h1", user_data=script, ssh_keys=keys + "\n"))
    mac = lab.row().mac
    assert mac is not None
    top = "instance-id\nlocal-ipv4\npublic-ipv4\nhostname\nnetwork/\npublic-keys/"
    interfaces = "meta-data/network/interfaces"
    for path, expected in {
        "meta-data": top,
        "meta-data/": top,
        "meta-data/instance-id": "web",
        "meta-data/local-ipv4": "127.0.0.1",
        "meta-data/public-ipv4": "127.0.0.1",
        "meta-data/hostname": "h1",
        "meta-data/network/": "interfaces/",
        f"{interfaces}/": "macs/",
        f"{interfaces}/macs/": f"{mac}/",
        f"{interfaces}/macs/{mac}/": "local-ipv4\nmac",
        f"{interfaces}/macs/{mac}/local-ipv4": "127.0.0.1",
        f"{interfaces}/macs/{mac.upper()}/mac": mac,
        f"{interfaces}/macs/52:54:00:00:00:01/mac": None,
        f"{interfaces}/macs/{mac}/gateway": None,
        "meta-data/public-keys/": "0=default",
        "meta-data/public-keys": "0=default",
        "meta-data/public-keys/0/openssh-key": keys,
        "meta-data/public-keys/1/openssh-key": None,
        "user-data": script,
        "meta-data/ami-id": None,
        "": None,
    }.items():
        assert body(guest, f"/{version}/{path}") == expected, path


def test_with_nothing_stored(guest: httpx.Client) -> None:
    assert body(guest, "/latest/meta-data/hostname") == "web"
    assert body(guest, "/latest/meta-data/public-keys/") == ""
    assert body(guest, "/latest/meta-data/public-keys/0/openssh-key") is None
    assert body(guest, "/latest/user-data") is None


def test_versions_and_token(guest: httpx.Client) -> None:
    assert body(guest, "/") == "2009-04-04\nlatest"
    assert body(guest, "/1.0/meta-data/") is None
    token = guest.put("/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    assert token.status_code == 200 and token.text
    with_token = guest.get("/latest/meta-data/instance-id", headers={"X-aws-ec2-metadata-token": token.text})
    assert with_token.text == "web"
    assert guest.put("/latest/user-data").status_code == 404


@pytest.mark.parametrize("row", ["state='stopped'", "local_ip='127.0.0.2'", "local_ip=NULL"])
def test_strangers_learn_nothing(lab: Lab, guest: httpx.Client, row: str) -> None:
    lab.sql(f"UPDATE vms SET {row}")
    assert body(guest, "/latest/meta-data/instance-id") is None
    assert guest.put("/latest/api/token").status_code == 404


def test_a_fault_tells_nothing() -> None:
    def broken(ip: str) -> None:
        raise RuntimeError("swordfish")

    server = MetadataServer(("127.0.0.1", 0), broken)
    server.start()
    try:
        answer = httpx.get("http://{}:{}/latest/user-data".format(*server.address), timeout=PATIENCE)
    finally:
        server.stop()
    assert (answer.status_code, "swordfish" in answer.text) == (500, False)


def test_an_address_that_is_not_there_yet(lab: Lab, server: MetadataServer) -> None:
    second = MetadataServer(server.address, lab.manager.metadata.guest_at, retry=0.02)
    second.start()
    try:
        assert second.status.startswith("error: cannot listen on 127.0.0.1 port ")
        server.stop()
        wait_until(lambda: second.status == "running", lambda: second.status)
        assert httpx.get("http://{}:{}/".format(*second.address), timeout=PATIENCE).status_code == 200
    finally:
        second.stop()
    assert second.status == "stopped"
