#!/usr/bin/env python3
"""The stock test handler: says hello, and repeats the request line. Its contract: faas.md, section 8.1.

It gets the client's connection over /control.sock, answers one request and ends.
"""

import socket
import sys


def take_connection() -> socket.socket:
    """One message comes over /control.sock, and one descriptor in it: the client's connection, unread."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.connect("/control.sock")
        _, ancillary, _, _ = control.recvmsg(1024, socket.CMSG_SPACE(4))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            number = int.from_bytes(data[:4], sys.byteorder)
            return socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM)
    sys.exit("no connection came over /control.sock")


def read_request(client: socket.socket) -> str:
    """The head of the request: a connection that is closed with unread bytes is reset."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = client.recv(4096)
        if not piece:
            break
        head += piece
    return head.decode("latin-1")


def main() -> None:
    client = take_connection()
    request_line = read_request(client).partition("\r\n")[0]
    body = f"Hello from FaaS handler!\nRequest: {request_line}\n".encode("latin-1")
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    client.sendall(head.encode() + body)
    client.close()


if __name__ == "__main__":
    main()
