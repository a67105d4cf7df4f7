"""A request that starts a container, and a bare `runc run` of the same tree, in turns. Runs on the functions' host.

Standard library only, run by its path with one argument, JSON: ip, port, rootfs, folder (for bundle and state), rounds.
Prints JSON: the milliseconds of each request, connect to last byte, and of each bare run, start to exit.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

# What the stock handler loads: a bare run starts the same program, which then has nothing to do.
COMMAND = ["python3", "-c", "import socket, sys"]
REQUEST = b"GET / HTTP/1.1\r\nHost: function\r\n\r\n"


def main() -> None:
    asked = json.loads(sys.argv[1])
    folder = Path(asked["folder"])
    bundle = folder / "bundle"
    bundle.mkdir(parents=True)
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["root"]["path"] = str(Path(asked["rootfs"]).resolve())  # it takes no link
    config["process"] |= {"terminal": False, "args": COMMAND}
    (bundle / "config.json").write_text(json.dumps(config))
    run = ["runc", "--root", str(folder / "state"), "run", "--bundle", str(bundle), "bare"]
    requests, bare = [], []
    for _ in range(asked["rounds"]):
        requests.append(_request((asked["ip"], asked["port"])))
        began = time.perf_counter()
        subprocess.run(run, stdin=subprocess.DEVNULL, check=True)
        bare.append((time.perf_counter() - began) * 1000)
    print(json.dumps({"requests": requests, "bare": bare}))


def _request(where: tuple[str, int]) -> float:
    began = time.perf_counter()
    with socket.create_connection(where, timeout=60) as client:
        client.sendall(REQUEST)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer) < _length(answer):
            piece = client.recv(65536)
            if not piece:
                break
            answer += piece
        took = (time.perf_counter() - began) * 1000
    if not answer.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"the function answered: {answer[:200]!r}")
    return took


def _length(answer: bytes) -> int:
    """Bytes of the whole answer, by its head."""
    head, _, _ = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return len(head) + 4 + int(lengths[0].split(b":")[1])


if __name__ == "__main__":
    main()
