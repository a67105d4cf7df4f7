"""Outgoing HTTP to peers: JSON, bounded, and only to where a gateway may call: contract 5.5."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import ssl
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from labyard.evse.sharing.directory import Found
from labyard.evse.sharing.faults import PeerFaults
from labyard.evse.sharing.network import is_local, resolve, split_host

if TYPE_CHECKING:
    import httpx

MAX_ANSWER = 64 * 1024
TIMEOUT = 10.0  # s, real
Credentials = tuple[str, str] | None


class CallError(Exception):
    """A peer could not be called, or its answer is none."""


class Calls:
    """The client is made with the first call: a gateway without peers does without it."""

    def __init__(self, faults: PeerFaults, credentials: Callable[[], Credentials]) -> None:
        self.faults = faults
        self._credentials = credentials
        self._client: httpx.AsyncClient | None = None

    async def get(self, peer: str, url: str) -> dict[str, Any]:
        """`peer` is the host that faults go by. CallError."""
        return await self._call(peer, "GET", url, None, TIMEOUT)

    async def post(self, peer: str, url: str, content: Any, timeout: float = TIMEOUT) -> dict[str, Any]:
        return await self._call(peer, "POST", url, content, timeout)

    def authorization(self) -> dict[str, str]:
        """Headers for a web socket."""
        credentials = self._credentials()
        if credentials is None:
            return {}
        text = base64.b64encode(":".join(credentials).encode()).decode()
        return {"Authorization": f"Basic {text}"}

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _call(self, peer: str, method: str, url: str, content: Any, timeout: float) -> dict[str, Any]:
        if self._client is None:
            await asyncio.to_thread(importlib.import_module, "httpx")
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(verify=unverified(), trust_env=False, follow_redirects=False)
        try:
            await self.faults.call(peer)
            async with asyncio.timeout(timeout):
                return await self._exchange(self._client, method, url, content)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError, RecursionError) as problem:
            raise CallError(f"{method} {url}: {type(problem).__name__} {problem}".rstrip()) from None

    async def _exchange(self, client: httpx.AsyncClient, method: str, url: str, content: Any) -> dict[str, Any]:
        body: dict[str, Any] = {} if content is None else {"json": content}
        async with client.stream(method, url, auth=self._credentials(), timeout=TIMEOUT, **body) as response:
            text = b""
            async for part in response.aiter_bytes():
                text += part
                if len(text) > MAX_ANSWER:
                    raise ValueError(f"the answer is longer than {MAX_ANSWER} bytes")
        if response.status_code != 200:
            raise ValueError(f"answer {response.status_code} {text[:200].decode(errors='replace')}")
        answer = json.loads(text)
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")
        return answer


def unverified() -> ssl.SSLContext:
    """Chargers have certificates of their own making, at addresses that change: there is nothing to verify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def url_of(host: str, found: Found | None, own_addresses: Collection[str] = ()) -> tuple[str, str]:
    """Where to call a peer, and its address. A name is called by the address that was looked at, not by its name.

    CallError: unknown, or neither discovered nor loopback, private, link-local or of this machine.
    """
    if found is not None:
        return found.url, found.address
    where = split_host(host)
    addresses = await resolve(where.name)
    if not addresses:
        raise CallError(f"{host}: mDNS has not found it, and the name does not resolve")
    local = [address for address in addresses if is_local(address) or str(address) in own_addresses]
    if not local:
        raise CallError(f"{host}: {addresses[0]} is neither local nor discovered, it is not called")
    address = str(local[0])
    name = f"[{address}]" if local[0].version == 6 else address
    return f"http://{name}" + ("" if where.port in (None, 80) else f":{where.port}"), address
