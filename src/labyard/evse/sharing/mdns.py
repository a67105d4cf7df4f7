"""Our own mDNS responder, on python-zeroconf. It shares UDP 5353 with others of its kind and with avahi-daemon.

Questions are always for multicast answers: of several sockets on port 5353 of one machine only one gets a unicast
answer. And they name no known answers: a sweep wants to hear everyone again.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

import structlog

from labyard.evse.sharing.directory import Found, reachable_address
from labyard.evse.sharing.network import announced_addresses, own_interfaces

if TYPE_CHECKING:
    from zeroconf import RecordUpdate, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

log = structlog.get_logger(__name__)

SERVICE = "_openevse._tcp.local."
WEB = "_http._tcp.local."
MAX_NAMES = 99  # openevse-2 to openevse-99
PROBES, PROBE_SECONDS = 3, 0.15
RESOLVE_MILLISECONDS = 1500
IP_MULTICAST_ALL = 49  # Linux; Python does not name it


@dataclass(frozen=True)
class Announcement:
    """What this gateway tells of itself."""

    hostname: str
    port: int
    properties: dict[str, str]


class OwnResponder:
    """`on_heard` gets every gateway each time that it is heard, `on_gone` the instance that says goodbye.

    `names`: the interfaces to speak and listen on; none: all. One that is not there is used when it comes.
    """

    def __init__(
        self,
        announcement: Announcement,
        on_heard: Callable[[Found], None],
        on_gone: Callable[[str], None],
        names: Sequence[str] = (),
    ) -> None:
        self.instance = announcement.hostname
        self._names = names
        self._announcement = announcement
        self._on_heard, self._on_gone = on_heard, on_gone
        self._zeroconf: AsyncZeroconf | None = None
        self._infos: list[AsyncServiceInfo] = []
        self._machine: list[IPv4Interface] = []  # all that this machine has
        self._interfaces: list[IPv4Interface] = []  # of them those in use
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._settling: asyncio.Task[None] | None = None
        self._renaming = asyncio.Lock()

    async def start(self) -> None:
        """Listen, and announce under a name that nobody has. OSError: port 5353 is not to be had."""
        # Costs a quarter of a second of one core: not before the gateway answers, and beside its work.
        library = await asyncio.to_thread(importlib.import_module, "zeroconf.asyncio")
        from zeroconf import IPVersion

        for name in self._names:
            if not own_interfaces([name]):
                log.warning("mDNS will use an interface when it is there with an IPv4 address", interface=name)
        self._look()
        self._zeroconf = library.AsyncZeroconf(interfaces=self._own_addresses(), ip_version=IPVersion.V4Only)
        if self._names:
            await self._hear_nothing_else()
        self._zeroconf.zeroconf.async_add_listener(_listener(self._records), None)
        async with self._renaming:
            await self._announce()

    async def announce(self, announcement: Announcement) -> None:
        """Under another name, or with other properties, from now on."""
        if self._zeroconf is not None and announcement != self._announcement:
            self._announcement = announcement
            async with self._renaming:
                await self._withdraw()
                await self._announce()

    def query(self) -> None:
        from zeroconf import DNSOutgoing, DNSQuestion  # type: ignore[attr-defined]
        from zeroconf.const import _CLASS_IN, _FLAGS_QR_QUERY, _TYPE_PTR

        if self._zeroconf is not None:
            question = DNSOutgoing(_FLAGS_QR_QUERY)
            question.add_question(DNSQuestion(SERVICE, _TYPE_PTR, _CLASS_IN))
            self._zeroconf.zeroconf.async_send(question)

    async def look_at_interfaces(self) -> None:
        """Follow what came or went since the last time."""
        if self._zeroconf is not None and self._look():
            await self._zeroconf.zeroconf.async_update_interfaces(self._own_addresses())
            for info in self._infos:
                info.addresses = [IPv4Address(address).packed for address in announced_addresses(self._interfaces)]
                await self._zeroconf.async_update_service(info)

    async def close(self) -> None:
        """Says goodbye."""
        for task in (*self._resolving.values(), *([self._settling] if self._settling else [])):
            task.cancel()
        if self._zeroconf is not None:
            await self._zeroconf.async_close()
            self._zeroconf = None

    def _look(self) -> bool:
        """Whether the interfaces in use are others than before."""
        before = self._interfaces
        self._machine = own_interfaces()
        self._interfaces = own_interfaces(self._names) if self._names else self._machine
        return before != self._interfaces

    def _own_addresses(self) -> list[str]:
        return [str(interface.ip) for interface in self._interfaces]

    async def _hear_nothing_else(self) -> None:
        """Linux gives a socket what came in on any interface where anybody on this machine has joined the group."""
        assert self._zeroconf is not None
        zeroconf = self._zeroconf.zeroconf
        await zeroconf.async_wait_for_start()
        if sys.platform == "linux":
            for reader in zeroconf.engine.readers:
                reader.sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)

    async def _withdraw(self) -> None:
        assert self._zeroconf is not None
        infos, self._infos = self._infos, []
        for info in infos:
            await self._zeroconf.async_unregister_service(info)

    async def _announce(self) -> None:
        assert self._zeroconf is not None
        announcement = self._announcement
        for number in range(1, MAX_NAMES + 1):
            name = announcement.hostname if number == 1 else f"{announcement.hostname}-{number}"
            infos = [self._info(kind, name) for kind in (SERVICE, WEB)]
            if await self._is_taken(infos[0]):
                log.info("another gateway has this name", name=name)
                continue
            for info in infos:
                await self._zeroconf.async_register_service(info, cooperating_responders=True)
            self.instance, self._infos = name, infos
            log.info("announced", name=name, port=announcement.port)
            return
        log.error("all names are taken, not announced", name=announcement.hostname)

    async def _is_taken(self, info: AsyncServiceInfo) -> bool:
        """Probe. The library's own probing asks for unicast answers, which another socket of this machine may get.

        With the record that we would have, it is a probe and no question: whoever has the name answers at once, also
        what it has told everyone a moment ago.
        """
        from zeroconf import DNSOutgoing, DNSQuestion, current_time_millis  # type: ignore[attr-defined]
        from zeroconf.const import _CLASS_IN, _FLAGS_QR_QUERY, _TYPE_SRV

        assert self._zeroconf is not None
        zeroconf = self._zeroconf.zeroconf
        await zeroconf.async_wait_for_start()
        for _ in range(PROBES):
            probe = DNSOutgoing(_FLAGS_QR_QUERY)
            probe.add_question(DNSQuestion(info.name, _TYPE_SRV, _CLASS_IN))
            probe.authorities.append(info.dns_service())  # type: ignore[arg-type]  # RFC 6762 8.2: any record
            zeroconf.async_send(probe)
            await asyncio.sleep(PROBE_SECONDS)
            known = zeroconf.cache.entries_with_name(info.name)
            if any(not record.is_expired(current_time_millis()) for record in known):
                return True
        return False

    def _info(self, kind: str, name: str) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        return AsyncServiceInfo(
            kind,
            f"{name}.{kind}",
            port=self._announcement.port,
            properties=self._announcement.properties if kind == SERVICE else {},
            server=f"{name}.local.",
            parsed_addresses=announced_addresses(self._interfaces),
        )

    def _records(self, zeroconf: Zeroconf, records: list[RecordUpdate]) -> None:
        """Called before the records are in the cache: what they say together is looked up after."""
        from zeroconf import DNSPointer, DNSText  # type: ignore[attr-defined]

        for record in records:
            if isinstance(record.new, DNSText):
                self._look_for_conflict(record.new.name, record.new.text)
            if not isinstance(record.new, DNSPointer) or record.new.name.lower() != SERVICE:
                continue
            name = record.new.alias
            instance = name.removesuffix(f".{record.new.name}")
            if instance.lower() == self.instance.lower():
                continue
            if record.new.ttl == 0 or record.new.is_expired(record.new.created):
                self._on_gone(instance)
            elif name not in self._resolving and len(self._resolving) < 256:
                self._resolving[name] = asyncio.create_task(self._resolve(zeroconf, name, instance))

    def _look_for_conflict(self, name: str, text: bytes) -> None:
        """Two that began at the same moment may have taken the same name: the one with the higher id takes another."""
        if not self._infos or name.lower() != self._infos[0].name.lower():
            return
        device_id = self._announcement.properties.get("id", "")
        theirs = properties_of(text).get("id", device_id)
        if device_id != theirs and (self._settling is None or self._settling.done()):
            log.info("another gateway has this name as well", name=self.instance, id=theirs)
            self._settling = asyncio.create_task(self._give_way() if device_id > theirs else self._insist())

    async def _give_way(self) -> None:
        """Without a goodbye: the name is still in use."""
        assert self._zeroconf is not None
        zeroconf = self._zeroconf.zeroconf
        async with self._renaming:
            infos, self._infos = self._infos, []
            for info in infos:
                zeroconf.registry.async_remove(info)
                zeroconf.cache.async_remove_records((info.dns_service(), info.dns_text()))
            await self._announce()

    async def _insist(self) -> None:
        """Say again what belongs to the name, so that nobody keeps what the other one said."""
        assert self._zeroconf is not None
        for info in self._infos:
            await self._zeroconf.async_update_service(info)

    async def _resolve(self, zeroconf: Zeroconf, name: str, instance: str) -> None:
        try:
            await self._look_up(zeroconf, name, instance)
        finally:
            del self._resolving[name]

    async def _look_up(self, zeroconf: Zeroconf, name: str, instance: str) -> None:
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceInfo

        info = AsyncServiceInfo(SERVICE, name)
        if not info.load_from_cache(zeroconf) and not await info.async_request(
            zeroconf, RESOLVE_MILLISECONDS, DNSQuestionType.QM
        ):
            log.info("a gateway tells no address", name=instance)
            return
        addresses = [text for text in info.parsed_addresses() if ":" not in text]
        if not addresses or not info.port:
            return
        told = {key.lower(): value or "" for key, value in info.decoded_properties.items()}
        own_id = self._announcement.properties.get("id")
        if (told.get("id"), info.port) == (own_id, self._announcement.port):
            return  # we ourselves, under the name that we had before
        self._on_heard(
            Found(
                instance,
                reachable_address(addresses, self._machine),
                info.port,
                device_id=told.get("id", "").lower(),
                version=told.get("version", ""),
                ssl=told.get("ssl") == "1",
                addresses=tuple(sorted(addresses)),
            )
        )


def properties_of(text: bytes) -> dict[str, str]:
    """Of a TXT record: strings, each with its length before it."""
    properties = {}
    while text:
        length, text = text[0], text[1:]
        key, _, value = text[:length].decode(errors="replace").partition("=")
        properties[key.lower()] = value
        text = text[length:]
    return properties


def _listener(work: Callable[[Any, list[Any]], None]) -> Any:
    from zeroconf import RecordUpdateListener

    class Listener(RecordUpdateListener):
        def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
            work(zc, records)

    return Listener()
