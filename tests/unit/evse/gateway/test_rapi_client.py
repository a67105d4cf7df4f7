from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from labyard.evse.gateway import rapi_client
from labyard.evse.gateway.rapi_client import RapiClient, Result
from labyard.evse.rapi import encode


class Line:
    """What the client writes, and what it reports."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.events: list[Sequence[str]] = []
        self.connected: list[bool] = []
        self.client = RapiClient(self.events.append, self.connected.append)
        self.client.attach(self.written.append)

    async def ask(self, command: str, *answers: bytes) -> rapi_client.Reply:
        asked = asyncio.create_task(self.client.send(command))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for answer in answers:
            self.client.received(answer)
        return await asked


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rapi_client, "TIMEOUT", 0.02)


async def test_gets_the_words_of_a_reply(line: Line) -> None:
    reply = await line.ask("$GV", b"$OK 8.2.1 5.0.1^2F\r")
    assert (reply.result, reply.words, reply.text) == (Result.OK, ("8.2.1", "5.0.1"), "$OK 8.2.1 5.0.1^2F")
    assert line.written == [b"$GV^35\r"]
    assert line.client.connected


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"$NK^21\r", Result.NK),
        (b"$OK 01^FF\r", Result.BAD_CHECKSUM),
        (b"$GV^35\r", Result.INVALID_RESPONSE),
        (b"$OK " + b"x" * 100 + b"\r", Result.BUFFER_OVERFLOW),
        (b"$OK\r", Result.OK),  # no checksum is accepted
        (b"$OK 1", Result.TIMEOUT),  # never ends
    ],
)
async def test_tells_how_a_command_went(line: Line, answer: bytes, result: Result) -> None:
    assert (await line.ask("$GV", answer)).result is result
    assert line.client.results == {result: 1}


async def test_a_checksum_that_is_lost_is_wrong_once_there_were_some(line: Line) -> None:
    assert (await line.ask("$GV", b"$OK 1\r")).ok
    assert (await line.ask("$GV", b"$OK^20\r")).ok
    assert (await line.ask("$GV", b"$OK 32_27\r")).result is Result.BAD_CHECKSUM
    line.client.received(b"$AT 03 03 16 0140_33\r")
    assert line.events == []
    line.client.detach()
    line.client.attach(line.written.append)
    assert (await line.ask("$GV", b"$OK 1\r")).ok


async def test_an_event_is_no_reply(line: Line) -> None:
    reply = await line.ask(
        "$GS", b"$AT 03 03 16 0140^33\r", encode("ST", 1) + encode("WF", 0), encode("OK", "03", 5, "03", "0140")
    )
    assert reply.ok
    assert line.events == [("AT", "03", "03", "16", "0140"), ("ST", "1"), ("WF", "0")]


async def test_an_event_with_a_wrong_checksum_is_dropped(line: Line) -> None:
    reply = await line.ask("$GS", b"$AT 03 03 16 0140^00\r", b"$OK^20\r")
    assert reply.ok
    assert line.events == []


async def test_a_late_reply_is_not_taken_for_the_next_one(line: Line) -> None:
    line.client.sequenced = True
    assert (await line.ask("$GC")).result is Result.TIMEOUT
    late = encode("OK", 6, 80, 32, 32, sequence="21")
    reply = await line.ask("$GG", late, encode("OK", 16000, 240000, sequence="22"))
    assert reply.words == ("16000", "240000")
    assert line.written == [encode("GC", sequence="21"), encode("GG", sequence="22")]


async def test_a_reply_without_the_sequence_id_is_wrong(line: Line) -> None:
    line.client.sequenced = True
    assert (await line.ask("$GC", encode("OK", 6))).result is Result.BAD_SEQUENCE_ID


async def test_sequence_ids_are_never_00(line: Line) -> None:
    line.client.sequenced = True
    for _ in range(300):
        await line.ask("$GV", b"$OK\r")
    assert not any(b":00^" in written for written in line.written)
    assert len(set(line.written)) == 255


async def test_three_timeouts_in_a_row_are_a_lost_evse(line: Line) -> None:
    await line.ask("$GV", b"$OK^20\r")
    for _ in range(2):
        await line.ask("$GS")
    assert line.client.connected
    await line.ask("$GS", b"$OK^20\r")
    for _ in range(3):
        await line.ask("$GS")
    assert line.connected == [True, False]
    line.client.received(b"$AB 00 8.2.1^1C\r")
    assert line.connected == [True, False, True]


async def test_one_in_flight_and_ten_wait(line: Line) -> None:
    asked = [asyncio.create_task(line.client.send("$GV")) for _ in range(12)]
    await asyncio.sleep(0)
    assert asked[11].result().result is Result.QUEUE_FULL
    assert len(line.written) == 1
    for number in range(11):
        line.client.received(b"$OK %d\r" % number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [task.result().words for task in asked[:11]] == [(str(number),) for number in range(11)]


async def test_a_long_command_is_refused_not_cut(line: Line) -> None:
    assert (await line.ask("$FP 0 0 " + "x" * 72)).result is Result.CMD_TOO_LONG
    assert line.written == []
    assert (await line.ask("$FP 0 0 " + "x" * 71, b"$OK\r")).ok


async def test_a_closed_line_ends_what_is_in_flight(line: Line) -> None:
    asked = asyncio.create_task(line.client.send("$GV"))
    await asyncio.sleep(0)
    line.client.detach()
    assert (await asked).result is Result.TIMEOUT
    assert (await line.client.send("$GV")).result is Result.TIMEOUT
    assert len(line.written) == 1


async def test_a_partial_line_does_not_outlive_the_link(line: Line) -> None:
    line.client.received(b"$OK 1")
    line.client.detach()
    line.client.attach(line.written.append)
    assert (await line.ask("$GV", b"23\r")).result is Result.TIMEOUT


async def test_spaces_of_display_text_travel_as_fe(line: Line) -> None:
    await line.ask("$FP 0 1 a  b", b"$OK\r")
    assert line.written[0].startswith(b"$FP 0 1 a\xfe\xfeb^")


async def test_a_slow_command_gets_its_time(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rapi_client.SLOW == {"$FK": 35.0}
    asked = asyncio.create_task(line.client.send("$FK 1"))
    await asyncio.sleep(0.05)
    line.client.received(b"$OK\r")
    assert (await asked).ok
