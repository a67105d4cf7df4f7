"""Asks the EVSE, and takes its answers into the model: contract 2.2."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from labyard.evse.gateway.evse import Evse
from labyard.evse.gateway.rapi_client import RapiClient, Reply

log = structlog.get_logger(__name__)


async def ask(rapi: RapiClient, evse: Evse, command: str, now: Callable[[], float]) -> bool:
    """`now` tells the charger's time, which is that of the answer. False: there was none, or it made no sense."""
    reply = await rapi.send(command)
    if not reply.ok:
        return False
    try:
        _take(evse, command, reply, now())
    except ValueError as problem:
        log.warning("answer makes no sense", command=command, answer=reply.text, problem=str(problem))
        return False
    return True


def _take(evse: Evse, command: str, reply: Reply, now: float) -> None:
    words = reply.words
    match command:
        case "$GV":
            evse.read_version(words)
        case "$GF":
            evse.read_faults(words)
        case "$GE":
            evse.read_settings(words)
        case "$GC":
            evse.read_capacity(words)
        case "$GA":
            evse.read_ammeter(words)
        case "$GI":
            evse.read_serial(words)
        case "$GS":
            evse.read_state(words, now)
        case "$GG":
            evse.read_current(words)
        case "$GP":
            evse.read_temperatures(words)
        case "$GU":
            evse.read_energy(words)
