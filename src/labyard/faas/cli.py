#!/usr/bin/env python3
"""`faas`: deploy and look at functions through the control API (contract section 3).

All text goes to standard output. HTTP is spoken by hand: starting Python is most of a call's time in an emulated guest,
and http.client alone would double it.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

USAGE = """Usage: faas <command> [arguments]

Commands:
  new <name> < image.tar   deploy a function from an image archive
      --memory 256M --cpu 0.5 --pids 32 --tmp 16M --timeout 10 --concurrency 4 --warm 2
  ip <name>                its address
  list                     all functions
  rm <name>                take it away
  logs <name> [--limit 20] its last requests, the newest last
  stats [name]             counters
  check [--repair]         compare what is registered with what there is

LABYARD_FAAS_URL (http://localhost:8080) and LABYARD_FAAS_TOKEN_FILE say where the daemon is."""
LIMITS = ("memory", "cpu", "pids", "tmp", "timeout", "concurrency", "warm")
PROGRESS = 60.0  # s without a byte being taken
UNPACKING = 900.0  # s for the daemon's answer: it unpacks the image before it gives one
PIECE = 1 << 18


class Failure(Exception):
    """What the user is told after `Error: `."""


def main() -> None:
    """Run one command. Exits with 1 when it fails."""
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    words = sys.argv[1:]
    if words in (["--help"], ["-h"]):
        print(USAGE)
        return
    if not words:
        _stop(USAGE)
    if words[0] not in COMMANDS:
        _stop(f"Unknown command: {words[0]}\n{USAGE}")
    try:
        COMMANDS[words[0]](words[1:])
    except (Failure, OSError) as error:
        _stop(f"Error: {error}")
    except KeyboardInterrupt:
        _stop("Error: interrupted")


def _stop(text: str) -> NoReturn:
    print(text)
    sys.exit(1)


def new(words: list[str]) -> None:
    names, limits = [], {}
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            value = value if equals else next(rest, "")
            if option not in LIMITS or not value:
                _stop(f"Usage: faas new <name> [{' '.join(f'--{name} X' for name in LIMITS)}]")
            limits[option] = value
        else:
            names.append(word)
    if len(names) != 1:
        _stop("Usage: faas new <name>")
    print(f"Uploading image '{names[0]}' to FaaS platform...", flush=True)
    upload = Upload()
    headers = {"X-Image-Name": names[0], "Content-Type": "application/x-tar"}
    if limits:
        headers["X-Faas-Limits"] = json.dumps(limits)
    answer = call("POST", "/api/new", headers, upload)
    print(f"✓ Deployed {answer['name']} at {answer['ip']}")
    print(f"  Command: {answer['cmd']}")
    if answer.get("not_enforced"):
        print(f"  Not enforced on this host: {', '.join(answer['not_enforced'])}")


class Upload:
    """Standard input in pieces. Failure when it is empty: known before the daemon is bothered."""

    def __init__(self) -> None:
        status = os.fstat(0)
        self.size = status.st_size - os.lseek(0, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else None
        self._first = os.read(0, PIECE)
        if not self._first:
            raise Failure("No data received on stdin")

    def headers(self) -> dict[str, str]:
        return {"Transfer-Encoding": "chunked"} if self.size is None else {"Content-Length": str(self.size)}

    def pieces(self) -> Iterator[bytes]:
        """As they go over the wire; says at the end how much was read."""
        count, piece = 0, self._first
        while piece:
            count += len(piece)
            yield piece if self.size is not None else b"%x\r\n%s\r\n" % (len(piece), piece)
            piece = os.read(0, PIECE)
        print(f"Read {count} bytes from stdin", flush=True)
        if self.size is None:
            yield b"0\r\n\r\n"


def ip(words: list[str]) -> None:
    if len(words) != 1:
        _stop("Usage: faas ip <name>")
    print(call("GET", f"/api/ip/{quote(words[0])}")["ip"])


def list_functions(_: list[str]) -> None:
    functions = call("GET", "/api/list")
    if not functions:
        print("No images deployed")
        return
    print(f"{'Name':<20} {'IP':<15} Command")
    print("-" * 60)
    for name, function in functions.items():
        print(f"{name:<20} {function['ip']:<15} {' '.join(function['cmd']) or '(none)'}")


def rm(words: list[str]) -> None:
    if len(words) != 1:
        _stop("Usage: faas rm <name>")
    call("DELETE", f"/api/function/{quote(words[0])}")
    print(f"✓ Removed {words[0]}")


def logs(words: list[str]) -> None:
    name, limit = words[0] if words else "", "20"
    if len(words) == 3 and words[1] == "--limit":
        limit = words[2]
    elif len(words) != 1:
        _stop("Usage: faas logs <name> [--limit 20]")
    for entry in reversed(call("GET", f"/api/function/{quote(name)}/logs?limit={quote(limit)}")):
        how = "warm" if entry["warm"] else "cold"
        status = f" {entry['status']}" if entry["status"] else ""
        print(f"{entry['time']} {entry['id']} {entry['result']}{status} {entry['ms']} ms {how}")
        for line in entry["stderr"].splitlines():
            print(f"  {line}")


def stats(words: list[str]) -> None:
    if len(words) > 1:
        _stop("Usage: faas stats [name]")
    print(json.dumps(call("GET", f"/api/function/{quote(words[0])}" if words else "/api/stats"), indent=2))


def check(words: list[str]) -> None:
    if words not in ([], ["--repair"]):
        _stop("Usage: faas check [--repair]")
    answer = call("POST", f"/api/observer/check{'?repair=1' if words else ''}")
    for issue in answer["issues"]:
        print(f"{issue['kind']} {issue['resource']} {issue['key']} {issue['details']}".rstrip())
    for failed in answer.get("failed", []):
        print(f"not mended: {failed['resource']} {failed['key']}: {failed['error']}")
    if not answer["issues"]:
        print("No issues")
    elif len(answer.get("repaired", [])) < len(answer["issues"]):
        sys.exit(1)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "new": new,
    "ip": ip,
    "list": list_functions,
    "rm": rm,
    "logs": logs,
    "stats": stats,
    "check": check,
}


def call(method: str, path: str, headers: dict[str, str] | None = None, upload: Upload | None = None) -> Any:
    """The answer's JSON. Failure with status and body when it is none of success; OSError when nobody answers."""
    host, port = _where()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
    every = {**(headers or {}), **_token(), **(upload.headers() if upload else {})}
    lines += [f"{name}: {value}" for name, value in every.items()]
    if any("\n" in line or "\r" in line for line in lines):
        raise Failure("a name must not have line breaks")
    try:
        link = socket.create_connection((host, port), timeout=PROGRESS)
    except OSError as error:
        raise Failure(f"cannot reach the FaaS daemon at http://{host}:{port}: {error.strerror or error}") from None
    with link:
        lost: OSError | None = None
        try:
            link.sendall("\r\n".join([*lines, "", ""]).encode())
            for piece in upload.pieces() if upload else ():
                link.sendall(piece)
        except OSError as error:
            lost = error  # a daemon that refuses says why before it stops to read
        link.settimeout(UNPACKING if upload else PROGRESS)
        answer = b""
        try:
            while piece := link.recv(PIECE):
                answer += piece
        except OSError as error:
            lost = lost or error
    return _read(answer, lost)


def quote(text: str) -> str:
    """A word as it goes into a path."""
    if text.isascii() and text.replace("-", "").replace("_", "").replace(".", "").isalnum():
        return text
    from urllib.parse import quote  # long to import, and no function has such a name

    return quote(text, safe="")


def _read(answer: bytes, lost: OSError | None) -> Any:
    head, _, body = answer.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise Failure(f"no answer from the daemon{f': {lost}' if lost else ''}")
    text = body.decode("utf-8", "replace").strip()
    if words[1] != b"200":
        raise Failure(f"{words[1].decode()} - {text}")
    try:
        return json.loads(text)
    except ValueError:
        raise Failure("the daemon's answer is not JSON") from None


def _where() -> tuple[str, int]:
    url = os.environ.get("LABYARD_FAAS_URL") or "http://localhost:8080"
    scheme, separator, rest = url.partition("://")
    host, _, port = rest.rstrip("/").partition(":")
    if scheme != "http" or not separator or not host or not (port or "80").isdigit():
        raise Failure(f"LABYARD_FAAS_URL {url!r} is not http://HOST:PORT")
    return host, int(port or 80)


def _token() -> dict[str, str]:
    path = os.environ.get("LABYARD_FAAS_TOKEN_FILE")
    if not path:
        return {}
    with open(path) as file:  # noqa: PTH123  # pathlib is not worth its import here
        return {"Authorization": f"Bearer {file.read().strip()}"}


if __name__ == "__main__":
    main()
