"""A client of the VM manager's REST contract (contract section 4), for commands, tests and scripts.

It needs httpx and the standard library only, so that it runs where the service is not installed.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from labyard.client.http import ClientError, Http
from labyard.client.service import ServiceClient
from labyard.vms.answers import Check, Console, Disk, Health, Lease, Metadata, Network, Observer, Repair, Template, Vm

T = TypeVar("T")

PIECE_BYTES = 256 * 1024  # of a console, at once; the contract allows 1 MiB
PAUSE_SECONDS = 0.5  # between two looks at a console

HINTS = {
    401: "give the service's token with --token or LABYARD_VMS_TOKEN",
    500: "its journal has more: journalctl -u labyard-vms, on its host",
}
# The way out of a refusal, by a fragment that the contract fixes.
WAYS_OUT = {
    "Template already exists": "a template never changes: take another name, or delete it first",
    "Template is in use": "delete those VMs first: labyard vms list",
    "Template not found": "labyard vms templates has those that there are",
    "VM with this ID already exists": "take another name, or start that one: labyard vms start {name}",
    "VM is already running": "to have it begin anew: labyard vms restart {name}",
    "VM is busy": "try again in a moment",
    "No available IPs": "stop a VM first: labyard vms list --state running",
    "VM must be running": "start it first: labyard vms start {vm}",
    "Disk is already attached": "take it away there first: labyard vms disks detach {name}",
    "Cannot delete attached disk": "so: labyard vms disks detach {name}",
}


class Client(ServiceClient[Http]):
    """`url` has no path, `token` is empty for a service that wants none, `timeout` is seconds for one answer: a stop
    waits for the guest, and for another operation on the same VM.

    Every method raises ClientError.
    """

    def __init__(self, url: str, token: str = "", *, timeout: float = 180) -> None:
        super().__init__(Http(url, "vms", timeout, HINTS))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def templates(self) -> list[Template]:
        return self._call(list[Template], "GET", "/templates")

    def create_template(self, name: str, cpu_count: int, ram_amount: int) -> Template:
        """`ram_amount` is MiB."""
        given = {"name": name, "cpu_count": cpu_count, "ram_amount": ram_amount}
        return self._call(Template, "POST", "/templates", about=name, json=given)

    def delete_template(self, name: str) -> None:
        try:
            self._call(type(None), "DELETE", f"/templates/{_segment(name)}", about=name)
        except ClientError as error:
            raise self._known(error, "template", name, [one["name"] for one in self.templates()]) from error

    def vms(self, state: str = "") -> list[Vm]:
        """All of them, or those in a state: running, stopped, error, paused."""
        return self._call(list[Vm], "GET", "/vms", params={"state": state} if state else {})

    def vm(self, name: str) -> Vm:
        return self._of_vm(Vm, "GET", name)

    def create_vm(self, name: str, template: str) -> Vm:
        given = {"name": name, "template_name": template}
        return self._call(Vm, "POST", "/vms", about=name, json=given)

    def delete_vm(self, name: str) -> None:
        """With its root disk. Its data disks are free afterwards, and have no label any more."""
        self._of_vm(type(None), "DELETE", name)

    def start(self, name: str) -> None:
        self._of_vm(dict[str, str], "POST", name, "/actions/start")

    def stop(self, name: str, force: bool = False) -> None:
        """`force` does not ask the guest."""
        self._of_vm(dict[str, str], "POST", name, "/actions/stop", params={"force": "true"} if force else {})

    def restart(self, name: str) -> None:
        """One that is stopped or in error is started."""
        self._of_vm(dict[str, str], "POST", name, "/actions/restart")

    def console(self, name: str, offset: int | None = None, limit: int | None = None) -> Console:
        """The last 50 KiB; with `offset` and `limit` that part of the current file, in bytes."""
        given = {"offset": offset, "limit": limit}
        query = {key: value for key, value in given.items() if value is not None}
        return self._of_vm(Console, "GET", name, "/console", params=query)

    def follow(self, name: str, *, give_up: float = 60) -> Iterator[str]:
        """The last 50 KiB of a console, then what the VM writes as it comes, without end, over its restarts.

        A service that is away is waited for `give_up` seconds, then it is a ClientError.
        """
        shown = self.console(name)
        yield shown["console"]
        offset = shown["next_offset"]
        away: float | None = None
        while True:
            time.sleep(PAUSE_SECONDS)
            try:
                shown = self.console(name, offset, PIECE_BYTES)
            except ClientError as error:
                away = away or time.monotonic()
                if error.status or time.monotonic() - away > give_up:
                    raise
                continue
            away = None
            if (shown["file_size"] or 0) < offset:  # the log was rotated: the file is a new one
                offset = 0
                continue
            yield shown["console"]
            offset = shown["next_offset"]

    def screenshot(self, name: str) -> bytes:
        """What the screen of a running VM shows: a PNG."""
        return self._of_vm(bytes, "GET", name, "/screenshot")

    def metadata(self, name: str) -> Metadata:
        return self._of_vm(Metadata, "GET", name, "/metadata")

    def set_metadata(self, name: str, **fields: str | None) -> Metadata:
        """`fields`: hostname, user_data, ssh_keys (one a line). None leaves a field as it is, an empty text clears."""
        return self._of_vm(Metadata, "PUT", name, "/metadata", json=fields)

    def clear_metadata(self, name: str) -> None:
        self._of_vm(type(None), "DELETE", name, "/metadata")

    def disks(self) -> list[Disk]:
        return self._call(list[Disk], "GET", "/disks")

    def disk(self, name: str) -> Disk:
        """The disk with this id, else with this label (mount_point), else whose id begins so."""
        known = self.disks()
        for found in (
            [disk for disk in known if disk["id"] == name],
            [disk for disk in known if disk["mount_point"] == name],
            [disk for disk in known if len(name) >= 4 and disk["id"].startswith(name)],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                ids = ", ".join(disk["id"] for disk in found)
                raise ClientError(f"{len(found)} disks are {name!r}; say which by its id: {ids}")
        raise self._known(ClientError("", 404), "disk", name, [disk["mount_point"] or disk["id"] for disk in known])

    def create_disk(self, size: int, label: str | None = None) -> Disk:
        """`size` is GiB. `label` is the contract's mount_point: a name for people, which means nothing to the guest."""
        return self._call(Disk, "POST", "/disks", json={"size": size, "mount_point": label})

    def attach(self, disk_id: str, vm: str) -> None:
        """To a VM that is running."""
        where = f"/disks/{_segment(disk_id)}/attach"
        try:
            self._call(dict[str, str], "POST", where, about=disk_id, vm=vm, json={"vm_id": vm})
        except ClientError as error:
            if "VM not found" not in str(error):
                raise
            raise self._known(error, "VM", vm, [one["id"] for one in self.vms()]) from error

    def detach(self, disk_id: str) -> None:
        """Returns when it is really gone from the VM. The disk has no label any more."""
        self._call(dict[str, str], "POST", f"/disks/{_segment(disk_id)}/detach", about=disk_id)

    def delete_disk(self, disk_id: str) -> None:
        self._call(type(None), "DELETE", f"/disks/{_segment(disk_id)}", about=disk_id)

    def network(self) -> Network:
        """The lab network (contract section 6.2); only a `status` when there is none."""
        return self._call(Network, "GET", "/network/config")

    def leases(self) -> list[Lease]:
        return self._call(list[Lease], "GET", "/network/leases")

    def health(self) -> Health:
        """Also when it is not well, which the service answers with 503."""
        answer = self._http.send("GET", "/health", headers=self._headers)
        health: Health = self._http.body(answer, also=503)
        return health

    def observer(self) -> Observer:
        return self._call(Observer, "GET", "/observer/status")

    def check(self) -> Check:
        """Have the observer look now."""
        return self._call(Check, "POST", "/observer/check")

    def repair(self) -> Repair:
        """Have the observer look now, and what it finds mended."""
        return self._call(Repair, "POST", "/observer/check", params={"repair": True})

    def _of_vm(self, kind: type[T], method: str, name: str, what: str = "", **given: Any) -> T:
        try:
            return self._call(kind, method, f"/vms/{_segment(name)}{what}", about=name, **given)
        except ClientError as error:
            if error.status != 404:
                raise
            raise self._known(error, "VM", name, [vm["id"] for vm in self.vms()]) from error

    def _call(self, kind: type[T], method: str, path: str, *, about: str = "", vm: str = "", **given: Any) -> T:
        """The body of a good answer, which the contract says is a `kind`. A refusal says which thing it is `about`, and
        the way out, which may be with the `vm`."""
        answer = self._http.send(method, path, headers=self._headers, **given)
        try:
            body: T = self._http.body(answer)
        except ClientError as error:
            text = f"{about}: {error}" if about else str(error)
            for fragment, way_out in WAYS_OUT.items():
                if fragment in text:
                    text = text.rstrip(".") + "; " + way_out.format(name=shlex.quote(about), vm=shlex.quote(vm))
            raise ClientError(text, error.status) from error
        return body

    @staticmethod
    def _known(error: ClientError, kind: str, name: str, known: list[str]) -> ClientError:
        """A 404 that says what there is; another error is left as it is."""
        if error.status != 404:
            return error
        names = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        return ClientError(f"there is no {kind} {name!r}; there are: {names or 'none yet'}", 404)


def _segment(name: str) -> str:
    """A name as one segment of a path, whatever is in it."""
    return "%2E" * len(name) if name in (".", "..") else quote(name, safe="")
