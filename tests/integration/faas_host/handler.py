"""The handler of the tests. Its first argument says how it behaves; it uses /control.sock as every handler does."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def connect() -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.connect("/control.sock")
    return link


def receive(link: socket.socket) -> socket.socket:
    """As handlers in the field do it: one recvmsg with room for one descriptor, duplicated by socket.fromfd."""
    _, ancillary, _, _ = link.recvmsg(1024, socket.CMSG_SPACE(4))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return socket.fromfd(int.from_bytes(data[:4], sys.byteorder), socket.AF_INET, socket.SOCK_STREAM)
    raise SystemExit("no descriptor came")


def request_of(client: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(4096)
        if not piece:
            break
        data += piece
    return data.decode()


def answer(client: socket.socket, body: str) -> None:
    content = body.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n\r\n"
    client.sendall(head.encode() + content)


def facts(client: socket.socket) -> dict[str, object]:
    """What a handler may count on, as it sees it."""

    def try_to(action) -> str:
        try:
            return str(action())
        except OSError as error:
            return os.strerror(error.errno)

    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    lines = Path("/proc/self/limits").read_text().splitlines()[1:]
    limits = {line[:26].strip(): line[26:].split()[0] for line in lines}
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "cwd": str(Path.cwd()),
        "env": dict(os.environ),
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "peer": client.getpeername(),
        "name": client.getsockname(),
        "blocking": os.get_blocking(client.fileno()),
        "write_root": try_to(Path("/file").touch),
        "write_tmp": try_to(Path("/tmp/file").touch),
        "write_control": try_to(lambda: Path("/control.sock").write_text("")),
        "urandom": len(os.urandom(8)),
        "devices": Path("/dev/urandom").is_char_device(),
        "capabilities": {key: value for key, value in status.items() if key.startswith("Cap")},
        "no_new_privileges": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
        "open_files": limits["Max open files"],
        "core": limits["Max core file size"],
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "make_device": try_to(lambda: os.mknod("/tmp/device", 0o20666, os.makedev(1, 3))),
        "descriptors": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()),
    }


def fill_tmp() -> str:
    try:
        with Path("/tmp/big").open("wb") as file:
            for _ in range(1024):
                file.write(b"x" * (1 << 20))
        return "all of it"
    except OSError as error:
        return os.strerror(error.errno)


def fork_many() -> str:
    children = []
    try:
        for _ in range(1000):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            children.append(child)
    except OSError as error:
        return f"{len(children)} {os.strerror(error.errno)}"
    return f"{len(children)} and no limit"


def main() -> None:
    mode = sys.argv[1] if len(sys.argv) > 1 else "echo"
    if mode == "exit-early":
        print("something is wrong", file=sys.stderr)
        sys.exit(int(sys.argv[2]))
    if mode == "never-connects":
        time.sleep(60)
    if mode == "flood":
        for _ in range(1024):
            sys.stderr.write("x" * 1023 + "\n")
        sys.stderr.write("the end\n")
        sys.stderr.flush()
    link = connect()
    if mode == "dies-parked":
        time.sleep(float(sys.argv[2]))
        sys.exit(3)
    client = receive(link)
    if mode == "exit-connected":
        sys.exit(int(sys.argv[2]))
    if mode == "abort":
        os.abort()
    if mode == "memory":
        hog = bytearray()
        while True:
            hog += b"x" * (1 << 20)
    if mode == "slow":
        time.sleep(float(sys.argv[2]))
    request = request_of(client)
    first = request.split("\r\n")[0]
    if mode == "spin":
        until = time.process_time() + float(sys.argv[2])
        began = time.monotonic()
        while time.process_time() < until:
            pass
        answer(client, f"{time.monotonic() - began}")
    elif mode == "facts":
        answer(client, json.dumps(facts(client)))
    elif mode == "fill-tmp":
        answer(client, fill_tmp())
    elif mode == "fork":
        answer(client, fork_many())
    elif mode == "subprocess":
        answer(client, subprocess.run(sys.argv[2:], capture_output=True, text=True, check=False).stdout)
    elif mode == "raw":
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\nuntil the end of the stream")
    elif mode == "goes-on":
        answer(client, "reply")
        client.close()
        time.sleep(60)
    elif mode == "half":
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
        time.sleep(60)
    else:
        answer(client, f"Hello from FaaS handler!\nRequest: {first}\nBody: {' '.join(sys.argv[1:])}\n")


main()
