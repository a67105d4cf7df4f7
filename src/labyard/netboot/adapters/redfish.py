"""Machines' BMCs by Redfish (DMTF DSP0266), as a client of HTTP.

OpenStack's library for this, sushy, was looked at: it sends each request up to three times when no answer comes, a
reset too, and knows no time for the whole, so that a BMC that hangs would hold up a session's start for minutes.
"""

from __future__ import annotations

import json
import ssl
import time
from types import TracebackType
from typing import Any, Self

import httpx

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.power import Bmc, Untouched

ROOT = "/redfish/v1"
REQUEST_SECONDS = 10.0
POLL_SECONDS = 0.3
MAX_REDIRECTS = 3


class RedfishPower:
    """See `PowerBackend`. `seconds`: how long one call may take in all."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def cycle(self, bmc: Bmc) -> None:
        """See `PowerBackend.cycle`.

        A machine that boots from the network anyway is not told to: nothing is written that somebody would have to
        write back.
        """
        with _System(bmc, self._seconds) as system:
            if not system.boots_from_network:
                system.boot_from_network_once()
            system.switch_off()
            system.switch_on()

    def off(self, bmc: Bmc) -> None:
        """See `PowerBackend.off`."""
        with _System(bmc, self._seconds) as system:
            system.switch_off()


class _System:
    """One machine, as its BMC shows it. Every method raises AdapterError, with the way out."""

    def __init__(self, bmc: Bmc, seconds: float) -> None:
        self._bmc = bmc
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        context = ssl.create_default_context()
        if not bmc.verify_tls:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        login = (bmc.username, bmc.password) if bmc.username else None
        # Not through a proxy: BMCs are on a network of their own.
        self._http = httpx.Client(auth=login, verify=context, trust_env=False, headers={"OData-Version": "4.0"})
        self._url = httpx.URL(bmc.url)
        self._etag = ""

    def __enter__(self) -> Self:
        try:
            self._url = self._find()
            self._shown = self._look()
        except AdapterError as error:
            self._http.close()
            raise Untouched(str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @property
    def boots_from_network(self) -> bool:
        boot = self._shown.get("Boot") or {}
        return boot.get("BootSourceOverrideTarget") == "Pxe" and boot.get("BootSourceOverrideEnabled") != "Disabled"

    def boot_from_network_once(self) -> None:
        """Without a boot mode: a machine keeps the firmware that it has."""
        boot = {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}
        self._call("PATCH", self._url, {"Boot": boot})

    def switch_off(self) -> None:
        if self._shown.get("PowerState") != "Off":
            self._reset("ForceOff")
            self._wait_for("Off")

    def switch_on(self) -> None:
        self._reset("On")
        self._wait_for("On")

    def _find(self) -> httpx.URL:
        """The machine's own URL. A BMC of one machine need not be told which."""
        url = httpx.URL(self._bmc.url)
        if url.path.rstrip("/") not in ("", ROOT):
            return url
        listed = self._call("GET", url.copy_with(path=f"{ROOT}/Systems")).get("Members") or []
        if len(listed) != 1:
            raise AdapterError(
                f"the BMC at {self._bmc.url} has {len(listed)} systems; name one in bmc_url, as {ROOT}/Systems/ID"
            )
        return url.join(str(listed[0].get("@odata.id")))

    def _look(self) -> dict[str, Any]:
        shown = self._call("GET", self._url)
        if "PowerState" not in shown:
            raise AdapterError(f"{self._url} tells no PowerState; bmc_url must be a system, as {ROOT}/Systems/ID")
        return shown

    def _reset(self, how: str) -> None:
        action = (self._shown.get("Actions") or {}).get("#ComputerSystem.Reset") or {}
        target = action.get("target") or f"{self._url.path.rstrip('/')}/Actions/ComputerSystem.Reset"
        self._call("POST", self._url.join(target), {"ResetType": how})

    def _wait_for(self, state: str) -> None:
        while True:
            self._shown = self._look()
            if self._shown["PowerState"] == state:
                return
            if time.monotonic() + POLL_SECONDS > self._deadline:
                raise AdapterError(
                    f"the machine at {self._url} is {self._shown['PowerState']}, not {state}, after "
                    f"{self._seconds:g} s; look at it, and start again"
                )
            time.sleep(POLL_SECONDS)

    def _call(self, method: str, url: httpx.URL, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's JSON; an empty one for an answer without."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._send(method, url, body)
            if not answer.has_redirect_location:
                break
            # A name leads to the machine's own URL; the password goes nowhere else.
            goal = url.join(answer.headers["Location"])
            if (goal.scheme, goal.host, goal.port) != (url.scheme, url.host, url.port):
                raise AdapterError(f"the BMC at {self._bmc.url} sends us elsewhere, to {goal}; set bmc_url to that")
            if url == self._url:
                self._url = goal
            url = goal
        self._check(method, url, answer)
        if method == "GET":
            self._etag = answer.headers.get("ETag", "")
        try:
            read = json.loads(answer.content or b"{}")
        except ValueError:
            read = None
        if not isinstance(read, dict):
            raise AdapterError(f"what answers at {url} is no Redfish service; correct bmc_url")
        return read

    def _send(self, method: str, url: httpx.URL, body: dict[str, Any] | None) -> httpx.Response:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise AdapterError(f"the BMC at {self._bmc.url} was not done within {self._seconds:g} s")
        # Some BMCs take a change only of what the client has seen.
        headers = {"If-Match": self._etag} if method == "PATCH" and self._etag else {}
        try:
            return self._http.request(method, url, json=body, headers=headers, timeout=min(REQUEST_SECONDS, left))
        except httpx.TimeoutException:
            raise AdapterError(
                f"the BMC at {self._bmc.url} does not answer; see that it is on and reached from the boot server"
            ) from None
        except httpx.HTTPError as error:
            way_out = "see that it is on and reached from the boot server, or correct bmc_url"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                way_out = "have the boot server trust its certificate, or set bmc_verify_tls to false"
            raise AdapterError(f"the BMC at {self._bmc.url} cannot be reached ({error}); {way_out}") from None

    def _check(self, method: str, url: httpx.URL, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        if answer.status_code in (401, 403):
            raise AdapterError(
                f"the BMC at {self._bmc.url} refuses user {self._bmc.username!r} with this password "
                f"({answer.status_code}); correct bmc_username and bmc_password"
            )
        if answer.status_code == 404:
            raise AdapterError(f"the BMC at {self._bmc.url} has no {url.path}; correct bmc_url")
        raise AdapterError(
            f"the BMC at {self._bmc.url} refuses {method} {url.path} ({answer.status_code}: {_told(answer)}); "
            "its own log says more"
        )


def _told(answer: httpx.Response) -> str:
    """What the BMC says of a refusal, as one short line."""
    try:
        error = answer.json()["error"]
        more = [entry.get("Message") for entry in error.get("@Message.ExtendedInfo") or []]
        text = "; ".join(filter(None, more)) or error["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        text = answer.text or answer.reason_phrase
    return " ".join(str(text).split())[:300]
