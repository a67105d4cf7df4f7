"""The system accounts of servers, one each, with the programs of the `passwd` package."""

from __future__ import annotations

import os
import pwd
import threading
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp.run import run

SHELL = "/bin/bash"


class Accounts:
    """`owner` is in the comment of every account made here: by it they are told from others'."""

    def __init__(self, owner: str) -> None:
        self._comment = f"{owner} RDP server"
        self._lock = threading.Lock()  # useradd waits for the password file's lock, but not for long

    def ensure(self, name: str, home: str) -> pwd.struct_passwd:
        """The account, made when it is not there. It can log in nowhere before it has a password. AdapterError."""
        with self._lock:
            found = _find(name)
            if found is None:
                run(
                    "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home, "--shell", SHELL,
                    "--comment", self._comment, name,
                )  # fmt: skip
                found = _find(name)
        if found is None or found.pw_gecos != self._comment:
            raise AdapterError(f"the account {name} is there already, and not made by this agent")
        return found

    def set_password(self, name: str, password: str) -> None:
        with self._lock:
            run("chpasswd", given=f"{name}:{password}\n")

    def remove(self, name: str) -> None:
        """Absent is fine. Its processes must be gone."""
        with self._lock:
            if name in self.names():
                run("userdel", "--force", name)

    def names(self) -> frozenset[str]:
        return frozenset(entry.pw_name for entry in pwd.getpwall() if entry.pw_gecos == self._comment)


def _find(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def group_of(user: str) -> int:
    """AdapterError when there is no such user."""
    found = _find(user)
    if found is None:
        raise AdapterError(f"there is no user {user} on this node: is its package installed?")
    return found.pw_gid


def give(path: Path, account: pwd.struct_passwd, mode: int) -> None:
    os.chown(path, account.pw_uid, account.pw_gid)
    path.chmod(mode)
