# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""A charger gateway's HTTP API (contract sections 4, 5.2 and 5.5) for the evse_* modules: its options, its peers."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from ansible_collections.labyard.lab.plugins.module_utils import service_api
from ansible_collections.labyard.lab.plugins.module_utils.service_api import NoAnswer, Refused, ServiceApi

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

ARGUMENTS: dict[str, dict[str, Any]] = {
    **service_api.ARGUMENTS,
    "username": {"type": "str", "default": "openevseadmin"},
    "password": {"type": "str", "default": "", "no_log": True},
    "timeout": {"type": "int", "default": 60},
}
PEERS = "/loadsharing/peers"
POLL_SECONDS = 0.25
Entry = dict[str, Any]


class EvseApi(ServiceApi):
    """Calls one gateway. When the module fails, what was done with `change` is taken back."""

    service = "gateway"
    hints: ClassVar[dict[int, str]] = {401: "give the username and password of the gateway"}
    timeout = 10

    def __init__(self, module: AnsibleModule, url: str | None = None) -> None:
        super().__init__(module)
        self.url = url or self.url
        self._back: list[Callable[[], Any]] = []

    def headers(self) -> dict[str, str]:
        password = self.module.params["password"]
        if not password:
            return {}
        login = f"{self.module.params['username']}:{password}"
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

    def at(self, url: str) -> EvseApi:
        """Another gateway of the group."""
        return EvseApi(self.module, url.rstrip("/"))

    def change(self, do: Callable[[], Any], back: Callable[[], Any]) -> None:
        """Do something, and note how it is taken back: before it is done, since an answer may get lost."""
        self._back.append(back)
        try:
            do()
        except Refused as error:
            self._back.pop()
            self.fail(str(error))
        except NoAnswer as error:
            self.fail(str(error))

    def set_options(self, values: dict[str, Any], before: dict[str, Any]) -> None:
        """Options of the gateway, by their own names; `before` are all that it has."""
        old = {key: before[key] for key in values if key in before}
        self.change(partial(self.exchange, "POST", "/config", values), partial(self.exchange, "POST", "/config", old))

    def add_peer(self, host: str) -> None:
        self.change(*self._ways(host))

    def remove_peer(self, host: str) -> None:
        self.change(*reversed(self._ways(host)))

    def fail(self, message: str, **facts: Any) -> Any:
        steps, self._back = self._back, []
        problems = []
        for step in reversed(steps):
            try:
                step()
            except Refused as error:
                if error.status != 404 and "already" not in str(error):  # then it had not been done
                    problems.append(str(error))
            except NoAnswer as error:
                problems.append(str(error))
        if problems:
            message += f". What was changed before could not be taken back: {'; '.join(problems)}"
        elif steps:
            message += ". What was changed before was taken back"
        super().fail(message, **facts)

    def read_options(self) -> dict[str, Any] | None:
        """All options; None in check mode where no gateway answers, which an earlier task may start."""
        try:
            return dict(self.exchange("GET", "/config"))
        except Refused as error:
            self.fail(str(error))
        except NoAnswer as error:
            if not self.module.check_mode:
                self.fail(str(error))
            self.module.warn(f"{error}. Check mode takes it that an earlier task starts it")
        return None

    def refuse_member(self, options: dict[str, Any]) -> None:
        """A member's peers and group are its controller's to set."""
        if is_member(options):
            self.fail(f"url: {self.url} {owner(options)}, whose controller keeps peers and settings: give its url")

    # Peers

    def joined(self) -> list[Entry]:
        """The peers that are in the group, without the gateway itself."""
        listed = self.call("GET", PEERS)
        return [entry for entry in listed if entry["joined"] and not entry.get("isLocal")]

    def await_online(self, hosts: Iterable[str], option: str, seconds: float) -> None:
        """Until all of these peers are online. `option` is what names them in the module."""
        deadline = time.monotonic() + seconds
        while missing := unmatched(hosts, [entry for entry in self.joined() if entry["online"]]):
            if time.monotonic() > deadline:
                self.fail(
                    f"{option}: {', '.join(missing)} not online after {seconds:g} s; see that the gateway runs there "
                    f"and that {self.url} reaches it"
                )
            time.sleep(POLL_SECONDS)

    def await_obeying(self, hosts: Iterable[str], controller: str, seconds: float) -> None:
        """Until these peers, which are online, take what `controller` gives. One that does not tell is warned of."""
        deadline = time.monotonic() + seconds
        for entry in (entry for entry in self.joined() if names(entry) & set(hosts)):
            while not obeys(found := self.at(entry["url"]).options_if_there(), controller):
                if time.monotonic() > deadline:
                    self.fail(
                        f"members: {entry['host']} {owner(found)} after {seconds:g} s, and does not obey {self.url}"
                    )
                time.sleep(POLL_SECONDS)
            if found is None:
                self.module.warn(
                    f"{entry['url']} does not answer from here, so whether {entry['host']} obeys was not seen"
                )

    def await_free(self, removed: Iterable[Entry], controller: str, seconds: float) -> None:
        """Until peers that were removed obey `controller` no more. One that does not hear of it is warned of."""
        deadline = time.monotonic() + seconds
        waiting = {entry["host"]: self.at(entry["url"]) for entry in removed}
        while waiting and time.monotonic() <= deadline:
            for host, gateway in list(waiting.items()):
                if not obeys(gateway.options_if_there(), controller):
                    del waiting[host]
            time.sleep(POLL_SECONDS if waiting else 0)
        for host in waiting:
            self.module.warn(
                f"{host} was removed and does not know it yet; when it is there again, free it with POST /config "
                '{"loadsharing_role": ""} at its own gateway'
            )

    def options_if_there(self) -> dict[str, Any] | None:
        """The gateway's options; None: no gateway lets us read them."""
        try:
            return dict(self.exchange("GET", "/config"))
        except (Refused, NoAnswer):
            return None

    def own_host(self, options: dict[str, Any]) -> str:
        """What this gateway, which has these options, is called by the members of its group."""
        for entry in self.call("GET", "/loadsharing/status")["peers"]:
            if entry["id"] == options["wifi_serial"].lower():
                return normal(entry["host"])
        return normal(f"{options['hostname']}.local:{options['www_http_port']}")

    def _ways(self, host: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """To add a peer, and to remove it."""
        path = f"{PEERS}/{quote(host, safe='')}"
        return partial(self.exchange, "POST", PEERS, {"host": host}), partial(self.exchange, "DELETE", path)

    def _error_text(self, error: HTTPError) -> str:
        try:
            content = json.loads(error.read())
            text = str(content.get("msg") or content["error"])
        except (ValueError, KeyError, AttributeError, OSError):
            return f"{error.url} answered {error.code}: is the {self.service} there?"
        hint = self.hints.get(error.code)
        return f"{error.url}: {text}" + (f"; {hint}" if hint else "")


def normal(host: str) -> str:
    """A host as gateways compare it: without regard to case and to the dot at the end of a name."""
    name, colon, port = host.strip().lower().rpartition(":")
    if not colon or not port.isdigit():
        return host.strip().lower().rstrip(".")
    return f"{name.rstrip('.')}:{port}"


def names(entry: Entry) -> set[str]:
    """All hosts that mean this peer."""
    port = urlsplit(entry["url"]).port
    suffix = "" if port in (None, 80, 443) else f":{port}"
    known = {normal(entry["host"]), normal(f"{entry['name']}.local{suffix}"), entry["id"]}
    return known | ({f"{entry['ip']}{suffix}"} if entry["ip"] else set())


def unmatched(hosts: Iterable[str], entries: list[Entry]) -> list[str]:
    """The hosts that mean none of these peers."""
    known: set[str] = set().union(*map(names, entries))
    return [host for host in hosts if normal(host) not in known]


def is_member(options: dict[str, Any]) -> bool:
    return bool(options["loadsharing_enabled"]) and options["loadsharing_role"] == "member"


def obeys(options: dict[str, Any] | None, controller: str) -> bool:
    """Whether a gateway with these options is a member of that controller's group. One that is not there is counted as
    such, since it may come back as what it was."""
    return options is None or (is_member(options) and normal(options["loadsharing_controller_host"]) == controller)


def owner(options: dict[str, Any] | None) -> str:
    """Of whose group a gateway with these options is, as a part of a sentence."""
    if options is not None and is_member(options):
        return f"is a member of the group of {options['loadsharing_controller_host']}"
    return "is in no group"
