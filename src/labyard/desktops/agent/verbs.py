"""The agent's verbs: which there are, and who does each."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from labyard.desktops.adapters import agent_wire as wire
from labyard.desktops.adapters.agent import Segment
from labyard.desktops.adapters.recorder import Recorder
from labyard.desktops.agent.node import NodeFacts
from labyard.desktops.agent.rdp.servers import Servers

REMEMBERED = 1000  # answers of mutating verbs


@dataclass(frozen=True)
class Handler:
    verb: wire.Verb[Any, Any]
    work: Callable[[Any], Any]


class Verbs:
    """What the agent is asked, by the verb's name. Every call is a thread's; ValueError for a malformed request,
    AgentRefused for what cannot be done."""

    def __init__(self, node: NodeFacts, servers: Servers, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._once = Once()
        handlers = [
            Handler(wire.PING, lambda _: node.ping()),
            Handler(wire.HARDWARE, lambda _: node.hardware()),
            Handler(wire.METRICS, lambda _: node.metrics()),
            Handler(wire.SIGN, lambda call: wire.Signature(node.sign(call.payload))),
            Handler(wire.SERVER_CREATE, lambda call: servers.create(call.spec)),
            Handler(wire.SERVER_START, lambda call: servers.start(call.spec)),
            Handler(wire.SERVER_STOP, lambda call: servers.stop(call.server_id)),
            Handler(wire.SERVER_DELETE, lambda call: servers.delete(call.server_id)),
            Handler(wire.SERVER_STATUS, lambda call: servers.status(call.server_id)),
            Handler(wire.SERVER_LIST, lambda _: servers.known()),
            Handler(wire.SERVER_USAGE, lambda call: servers.usage(call.server_id)),
            Handler(wire.SERVER_PROBE, lambda call: servers.probe(call.server_id, call.username, call.password)),
        ]
        if recorder is not None:
            handlers += _recording(recorder)
        self._handlers = {handler.verb.name: handler for handler in handlers}

    def names(self) -> frozenset[str]:
        return frozenset(self._handlers) | ({wire.SEGMENTS_STREAM.name} if self._recorder else set())

    def call(self, name: str, body: bytes) -> bytes:
        """The answer, as the wire wants it. KeyError for an unknown verb."""
        handler = self._handlers[name]
        request = handler.verb.read_request(body)
        if handler.verb.mutating:
            answer = self._once.do((name, request.request_id), lambda: handler.work(request))
        else:
            answer = handler.work(request)
        return handler.verb.write_answer(wire.Nothing() if answer is None else answer)

    def segments(self, body: bytes) -> Iterator[Segment]:
        request = wire.SEGMENTS_STREAM.read_request(body)
        assert self._recorder is not None  # the verb is unknown without one
        return self._recorder.segments(request.session_id, request.after)


class Once:
    """Work by key, done once: who asks again, meanwhile or later, gets the same answer. What failed is forgotten."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[str, str], Future[Any]] = OrderedDict()

    def do(self, key: tuple[str, str], work: Callable[[], Any]) -> Any:
        with self._lock:
            found = self._answers.get(key)
            if found is None:
                mine = self._answers[key] = Future()
                while len(self._answers) > self._remembered:
                    self._answers.popitem(last=False)
        if found is not None:
            return found.result()
        try:
            answer = work()
        except BaseException as error:
            with self._lock:
                self._answers.pop(key, None)
            mine.set_exception(error)
            raise
        mine.set_result(answer)
        return answer


def _recording(recorder: Recorder) -> list[Handler]:
    return [
        Handler(wire.RECORD_START, lambda call: recorder.start(call.spec)),
        Handler(wire.RECORD_STOP, lambda call: recorder.stop(call.session_id)),
        Handler(wire.RECORD_PAUSE, lambda call: recorder.pause(call.session_id)),
        Handler(wire.RECORD_RESUME, lambda call: recorder.resume(call.session_id)),
        Handler(wire.RECORD_STATUS, lambda call: recorder.status(call.session_id)),
        Handler(wire.RECORD_LIST, lambda _: recorder.sessions()),
        Handler(wire.SEGMENTS_ACK, lambda call: recorder.acknowledge(call.session_id, call.upto)),
    ]
