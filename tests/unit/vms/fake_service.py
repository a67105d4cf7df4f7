"""A small HTTP server that speaks the VM manager's contract (section 4): its routes, shapes and words, with nothing
behind them. It is for the clients; the service has tests of its own."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

VM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NOW = "2026-01-02T03:04:05"


class Refusal(Exception):
    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class CutOff(Exception):
    """Ends a request without an answer."""


def invalid(field: str, message: str) -> Refusal:
    return Refusal(422, [{"type": "value_error", "loc": ["body", field], "msg": message, "input": None}])


class Service:
    """What the service knows. A test may change all of it, as the world does."""

    def __init__(self) -> None:
        self.templates: dict[str, dict[str, Any]] = {}
        self.vms: dict[str, dict[str, Any]] = {}
        self.disks: dict[str, dict[str, Any]] = {}
        self.metadata: dict[str, dict[str, Any]] = {}
        self.consoles: dict[str, bytes] = {}
        self.screens: dict[str, bytes] = {}  # PNG
        self.issues: list[dict[str, str]] = []
        self.observer_error: str | None = None
        self.checks = {"database": "ok", "storage": "ok", "qemu": "available", "observer": "running", "libvirt": "ok"}
        self.network: dict[str, Any] = {
            "vlan_id": 100,
            "bridge_name": "br-vman",
            "subnet": "192.168.100.0/24",
            "gateway": "192.168.100.1",
            "dns": ["8.8.8.8", "8.8.4.4"],
            "network_name": "labyard-vman",
            "mode": "nat",
            "vlan_applied": False,
            "ip_mac_filter": True,
        }
        self.token = ""
        self.asked: list[str] = []  # "METHOD target" of each request

    # -- templates -----------------------------------------------------------------------------------------------

    def get_templates(self) -> Any:
        return list(self.templates.values())

    def get_template(self, name: str) -> Any:
        if name not in self.templates:
            raise Refusal(404, "Template not found")
        return self.templates[name]

    def post_templates(self, body: Any) -> Any:
        if body["name"] in self.templates:
            raise Refusal(400, "Template already exists")
        if not 1 <= body["cpu_count"] <= 255:
            raise invalid("cpu_count", "Input should be less than or equal to 255")
        self.templates[body["name"]] = {key: body[key] for key in ("name", "cpu_count", "ram_amount")}
        return 201, self.templates[body["name"]]

    def delete_template(self, name: str) -> Any:
        self.get_template(name)
        if used := sum(vm["template_name"] == name for vm in self.vms.values()):
            raise Refusal(400, f"Template is in use by {used} VM(s)")
        del self.templates[name]
        return 204, None

    # -- VMs -----------------------------------------------------------------------------------------------------

    def get_vms(self, state: str = "") -> Any:
        return [self.get_vm(vm_id) for vm_id, vm in self.vms.items() if state in ("", vm["state"])]

    def get_vm(self, vm_id: str) -> Any:
        if vm_id not in self.vms:
            raise Refusal(404, "VM not found")
        vm = dict(self.vms[vm_id])
        vm["vm_template"] = self.templates.get(vm.pop("template_name"))
        return vm

    def post_vms(self, body: Any) -> Any:
        vm_id = body.get("name") or str(uuid.uuid4())
        if not VM_ID.fullmatch(vm_id):
            raise invalid("name", "String should match pattern")
        if body["template_name"] not in self.templates:
            raise Refusal(400, "Template not found")
        if vm_id in self.vms:
            raise Refusal(400, "VM with this ID already exists")
        self.vms[vm_id] = {
            "id": vm_id,
            "template_name": body["template_name"],
            "state": "stopped",
            "local_ip": None,
            "mac": "52:54:00:00:00:01",
            "network_mode": "nat",
            "domain_type": "qemu",
            "domain_uuid": str(uuid.uuid4()),
            "state_reason": None,
        }
        return 201, self.get_vm(vm_id)

    def delete_vm(self, vm_id: str) -> Any:
        self.get_vm(vm_id)
        for disk in self.disks.values():
            if disk["vm_id"] == vm_id:
                self._free(disk)
        del self.vms[vm_id]
        self.metadata.pop(vm_id, None)
        return 204, None

    def start(self, vm_id: str) -> Any:
        self.get_vm(vm_id)
        vm = self.vms[vm_id]
        if vm["state"] == "running":
            raise Refusal(400, "VM is already running")
        used = {one["local_ip"] for one in self.vms.values()}
        free = (f"192.168.100.{host}" for host in range(2, 255))
        vm |= {"state": "running", "local_ip": next(ip for ip in free if ip not in used), "state_reason": None}
        return 202, {"status": "started"}

    def stop(self, vm_id: str, force: str = "false") -> Any:
        state = self.get_vm(vm_id)["state"]
        if state != "running":
            raise Refusal(400, f"VM is not running (current state: {state})")
        self.vms[vm_id] |= {"state": "stopped", "local_ip": None}
        return 202, {"status": "stopped"}

    def restart(self, vm_id: str) -> Any:
        if self.get_vm(vm_id)["state"] == "running":
            self.stop(vm_id)
        self.start(vm_id)
        return 202, {"status": "restarted"}

    def console(self, vm_id: str, offset: str = "", limit: str = "1048576") -> Any:
        self.get_vm(vm_id)
        answer: dict[str, Any] = {"vm_id": vm_id, "message": None}
        if vm_id not in self.consoles:
            missing = "Console file not found (VM may not have started yet)"
            return answer | {"console": "", "size": 0, "file_size": 0, "next_offset": 0, "message": missing}
        content = self.consoles[vm_id]
        begin = int(offset) if offset else max(0, len(content) - 51200)
        text = content[begin : begin + int(limit)].decode(errors="replace")
        after = min(len(content), begin + int(limit))
        return answer | {"console": text, "size": len(text), "file_size": len(content), "next_offset": after}

    def screenshot(self, vm_id: str) -> Any:
        state = self.get_vm(vm_id)["state"]
        if state != "running":
            raise Refusal(400, f"VM is not running (current state: {state})")
        return self.screens[vm_id]

    def get_metadata(self, vm_id: str) -> Any:
        self.get_vm(vm_id)
        names = ("hostname", "user_data", "ssh_keys", "created_at", "updated_at")
        return {"vm_id": vm_id} | dict.fromkeys(names) | self.metadata.get(vm_id, {})

    def put_metadata(self, vm_id: str, body: Any) -> Any:
        self.get_vm(vm_id)
        if len(body.get("hostname") or "") > 253:
            raise invalid("hostname", "String should have at most 253 characters")
        given = {key: value or None for key, value in body.items() if value is not None}
        self.metadata[vm_id] = self.metadata.get(vm_id, {"created_at": NOW}) | given | {"updated_at": NOW}
        return self.get_metadata(vm_id)

    def delete_metadata(self, vm_id: str) -> Any:
        self.get_vm(vm_id)
        self.metadata.pop(vm_id, None)
        return 204, None

    # -- disks ---------------------------------------------------------------------------------------------------

    def get_disks(self) -> Any:
        return list(self.disks.values())

    def get_disk(self, disk_id: str) -> Any:
        if disk_id not in self.disks:
            raise Refusal(404, "Disk not found")
        return self.disks[disk_id]

    def post_disks(self, body: Any) -> Any:
        if not 1 <= body["size"] <= 16384:
            raise invalid("size", "Input should be less than or equal to 16384")
        disk = {"id": str(uuid.uuid4()), "size": body["size"], "mount_point": body.get("mount_point")}
        self.disks[disk["id"]] = disk | {"state": "available", "vm_id": None, "target": None, "device_path": None}
        return 201, self.disks[disk["id"]]

    def delete_disk(self, disk_id: str) -> Any:
        disk = self.get_disk(disk_id)
        if disk["state"] == "attached" and self.vms.get(disk["vm_id"], {}).get("state") == "running":
            raise Refusal(400, "Cannot delete attached disk. Detach it first.")
        del self.disks[disk_id]
        return 204, None

    def attach(self, disk_id: str, body: Any) -> Any:
        if not body.get("vm_id"):
            raise Refusal(400, "vm_id is required")
        disk = self.get_disk(disk_id)
        if disk["state"] == "attached":
            raise Refusal(400, "Disk is already attached")
        if self.get_vm(body["vm_id"])["state"] != "running":
            raise Refusal(400, "VM must be running to attach disk")
        target = "sd" + chr(ord("a") + sum(one["vm_id"] == body["vm_id"] for one in self.disks.values()))
        disk |= {"state": "attached", "vm_id": body["vm_id"], "target": target}
        disk["mount_point"] = disk["mount_point"] or f"/dev/{target}"
        disk["device_path"] = f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{disk_id}"
        return {"status": "attached"}

    def detach(self, disk_id: str) -> Any:
        disk = self.get_disk(disk_id)
        if disk["state"] != "attached":
            raise Refusal(400, "Disk is not attached")
        self._free(disk)
        return {"status": "detached"}

    @staticmethod
    def _free(disk: dict[str, Any]) -> None:
        disk |= {"state": "available", "vm_id": None, "mount_point": None, "target": None, "device_path": None}

    # -- the rest ------------------------------------------------------------------------------------------------

    def health(self) -> Any:
        well = all(self.checks[name] in ("ok", "available") for name in ("database", "storage", "qemu", "libvirt"))
        body = {"status": "ok" if well else "degraded", "service": "labyard-vms", "checks": self.checks}
        return 200 if well else 503, body

    def observer_status(self) -> Any:
        facts = {"status": "running", "check_interval": 5.0, "last_run": NOW, "sweeps": 1}
        found = {"last_issues_count": len(self.issues), "last_issues": self.issues}
        return facts | found | {"last_error": self.observer_error}

    def observer_check(self, repair: str = "false") -> Any:
        mended = (
            [issue for issue in self.issues if issue["issue_type"] == "vm_state_mismatch"] if repair == "true" else []
        )
        left = [issue for issue in self.issues if issue not in mended]
        found = {"issues_count": len(left), "issues": left, "started_at": NOW, "finished_at": NOW}
        found |= {"repaired": mended} if repair == "true" else {}
        return {"status": "error" if self.observer_error else "ok", "error": self.observer_error} | found

    def network_config(self) -> Any:
        if "subnet" not in self.network:
            return self.network
        used = sorted(vm["local_ip"] for vm in self.vms.values() if vm["local_ip"])
        return self.network | {"allocated_ips": used, "available_ips": 253 - len(used)}

    def leases(self) -> Any:
        running = [vm for vm in self.vms.values() if vm["local_ip"]]
        return [
            {"ip": vm["local_ip"], "mac": vm["mac"], "vm_id": vm["id"], "acquired_at": NOW, "seen": True}
            for vm in running
        ]


ROUTES: list[tuple[str, str, str]] = [
    ("GET", "/templates", "get_templates"),
    ("POST", "/templates", "post_templates"),
    ("GET", "/templates/{}", "get_template"),
    ("DELETE", "/templates/{}", "delete_template"),
    ("GET", "/vms", "get_vms"),
    ("POST", "/vms", "post_vms"),
    ("GET", "/vms/{}", "get_vm"),
    ("DELETE", "/vms/{}", "delete_vm"),
    ("POST", "/vms/{}/actions/start", "start"),
    ("POST", "/vms/{}/actions/stop", "stop"),
    ("POST", "/vms/{}/actions/restart", "restart"),
    ("GET", "/vms/{}/console", "console"),
    ("GET", "/vms/{}/screenshot", "screenshot"),
    ("GET", "/vms/{}/metadata", "get_metadata"),
    ("PUT", "/vms/{}/metadata", "put_metadata"),
    ("DELETE", "/vms/{}/metadata", "delete_metadata"),
    ("GET", "/disks", "get_disks"),
    ("POST", "/disks", "post_disks"),
    ("GET", "/disks/{}", "get_disk"),
    ("DELETE", "/disks/{}", "delete_disk"),
    ("POST", "/disks/{}/attach", "attach"),
    ("POST", "/disks/{}/detach", "detach"),
    ("GET", "/health", "health"),
    ("GET", "/observer/status", "observer_status"),
    ("POST", "/observer/check", "observer_check"),
    ("GET", "/network/config", "network_config"),
    ("GET", "/network/leases", "leases"),
]


def route(method: str, path: str) -> tuple[str, list[str]]:
    for verb, pattern, name in ROUTES:
        match = re.fullmatch(pattern.replace("{}", "([^/]+)"), path)
        if match and verb == method:
            return name, [unquote(value) for value in match.groups()]
    raise Refusal(404, "Not Found")


class FakeServer:
    """The service on a port of its own. `on_request` is called before each one is served."""

    def __init__(self) -> None:
        self.service = Service()
        self.on_request: Callable[[str], None] = lambda target: None
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                try:
                    server.on_request(f"{self.command} {self.path}")
                    found = server.serve(self.command, self.path, self.headers.get("Authorization", ""), body)
                except Refusal as refusal:
                    found = refusal.status, {"detail": refusal.detail}
                except CutOff:
                    return
                status, content = found if isinstance(found, tuple) else (200, found)
                picture = isinstance(content, bytes)
                data = content if picture else b"" if status == 204 else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "image/png" if picture else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *arguments: Any) -> None: ...

        return Handler

    def serve(self, method: str, target: str, authorization: str, body: Any) -> Any:
        self.service.asked.append(f"{method} {target}")
        parts = urlsplit(target)
        if self.service.token and parts.path != "/health" and authorization != f"Bearer {self.service.token}":
            raise Refusal(401, "Not authenticated")
        name, values = route(method, parts.path)
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        given = {} if body is None else {"body": body}
        return getattr(self.service, name)(*values, **given, **query)
