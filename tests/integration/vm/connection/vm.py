"""Ansible's way into the VM of a test. What listens at the other end is in playbooks.py."""

from __future__ import annotations

import os
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: vm
short_description: the VM of a test
description: Hands commands and files to the test that has the VM, which listens at VM_SOCKET.
"""


class Connection(ConnectionBase):  # type: ignore[misc]
    transport = "vm"
    has_pipelining = True

    def _connect(self) -> Connection:
        return self

    def close(self) -> None:
        pass

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        return self._ask("run", cmd, in_data)

    def put_file(self, in_path: str, out_path: str) -> None:
        self._ask("write", out_path, Path(in_path).read_bytes())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        Path(out_path).write_bytes(self._ask("read", in_path, None))

    def _ask(self, *request: Any) -> Any:
        with Client(os.environ["VM_SOCKET"], "AF_UNIX") as connection:
            connection.send(request)
            error, answer = connection.recv()
        if error:
            raise AnsibleError(error)
        return answer
