"""The emulator and its line, with ends that write into a list instead of a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from labyard.evse.clock import Clock, settle
from labyard.evse.codes import ErrorFlag, State
from labyard.evse.emulator.config import Values, build
from labyard.evse.emulator.emulator import Emulator
from labyard.evse.emulator.line import End
from labyard.evse.emulator.link_faults import parse
from labyard.evse.rapi import Checksum, decode, encode


class Client:
    def __init__(self, emulator: Emulator, name: str = "client") -> None:
        self.raw = b""
        self.hung_up = False
        self._emulator = emulator
        self.end = End(emulator.line, name, self)
        emulator.line.attach(self.end)
        emulator.greet(self.end)

    def write(self, data: bytes) -> None:
        self.raw += data

    def hang_up(self) -> None:
        self.hung_up = True
        self._emulator.line.detach(self.end)

    def lines(self) -> list[str]:
        """What has come since the last call, without checksums."""
        lines = self.raw.decode("latin-1").split("\r")[:-1]
        self.raw = b""
        return [line.partition("^")[0] for line in lines]

    def ask(self, line: str) -> list[str]:
        self.lines()
        self.end.received(line.encode("latin-1") + b"\r")
        return self.lines()


def make(**values: Any) -> Emulator:
    given: Values = {name.replace("__", "."): value for name, value in values.items()}
    clock = Clock()
    clock.set("manual")
    return Emulator(build(given), clock)


@pytest.fixture
def emulator() -> Emulator:
    return make()


async def test_a_reply_goes_to_the_asker_and_what_is_announced_to_all(emulator: Emulator) -> None:
    one, two = Client(emulator, "one"), Client(emulator, "two")
    assert (one.lines(), two.lines()) == (["$AB 00 8.2.1"], ["$AB 00 8.2.1"])
    assert one.ask("$FS") == ["$OK", "$AT FE 01 32 0000"], "the report comes after the reply"
    assert two.lines() == ["$AT FE 01 32 0000"]
    one.hang_up()
    assert two.ask("$GS") == ["$OK FE 0 01 0000"]
    assert one.lines() == []


async def test_partial_lines_and_several_in_one_piece(emulator: Emulator) -> None:
    client = Client(emulator)
    client.lines()
    client.end.received(b"$G")
    client.end.received(b"V^3")
    assert client.lines() == []
    client.end.received(b"5\r\n\r$GC^20\nnoise\r$XX$G0\r")
    assert client.lines() == ["$OK 8.2.1 5.0.1", "$OK 6 80 32 32", "$OK 0"]
    client.end.received(b"$FP 0 0 " + b"x" * 30 + b"\r")
    assert client.lines() == [], "an overlong line is dropped silently"


async def test_sequence_ids_are_repeated(emulator: Emulator) -> None:
    client = Client(emulator)
    client.lines()
    client.end.received(b"$GS :41^2F\r$XX :41\r$FS :4a\r")
    assert client.raw == (
        encode("OK", "01", 0, "01", "0000", sequence="41")
        + b"$NK :41^3E\r"
        + encode("OK", sequence="4A")
        + encode("AT", "FE", "01", 32, "0000")
    )


async def test_a_wrong_checksum_is_not_executed_unless_told_so(emulator: Emulator) -> None:
    client = Client(emulator)
    client.lines()
    client.end.received(b"$FS :41^00\r")
    assert client.raw == b"$NK^21\r"
    assert emulator.evse.state is State.NOT_CONNECTED
    assert client.ask("$GS*BE") == ["$OK 01 0 01 0000"]
    assert client.ask("$GS*BF") == ["$NK"]
    lax = Client(make(serial__strict_checksum=False))
    assert lax.ask("$GS^00") == ["$OK 01 0 01 0000"]


async def test_echo_repeats_the_line_to_the_asker(emulator: Emulator) -> None:
    one, two = Client(emulator), Client(emulator)
    one.ask("$SE 1")
    two.lines()
    one.lines()
    one.end.received(b"$g0 :4a\r$GS^00\r")
    assert one.raw == b"$g0 :4a\r" + encode("OK", 0, sequence="4A") + b"$GS^00\r$NK^21\r"
    assert two.lines() == []
    one.ask("$FF E 0")
    assert one.ask("$G0") == ["$OK 0"]


async def test_the_tick_moves_the_car_and_announces(emulator: Emulator) -> None:
    task = asyncio.create_task(emulator.run())
    client = Client(emulator)
    client.lines()
    with emulator.change():
        emulator.car.connect()
    with emulator.change():
        emulator.car.request()
    assert client.lines() == ["$AT 02 02 32 0100", "$AT 03 03 32 0140"]
    await settle()
    await emulator.clock.advance(61)
    assert client.ask("$GG") == ["$OK 30000 240000"]
    assert client.ask("$GU") == ["$OK 432000 120"]
    task.cancel()


async def test_a_reboot_in_mid_command(emulator: Emulator) -> None:
    client = Client(emulator)
    emulator.trip(ErrorFlag.NO_GROUND, "no_ground")
    client.lines()
    client.end.received(b"$FR\r$GS\r$G")
    assert client.lines() == ["$OK"]
    late = Client(emulator)
    assert late.lines() == [] and client.ask("$GV") == []
    await settle()
    await emulator.clock.advance(0.5)
    expected = ["$AB 07 8.2.1", "$AT 00 01 32 0020"]
    assert client.lines() == expected and late.lines() == expected
    await emulator.clock.advance(1)
    assert client.lines() == late.lines() == ["$AT 07 01 32 0020"]
    assert client.ask("S\r$GV") == ["$OK 8.2.1 5.0.1"], "the half line before the boot is gone"


async def test_a_boot_that_fails_is_told_of(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator.evse, "power_on", lambda: 1 / 0)
    emulator.reboot()
    with capture_logs() as logs:
        await settle()
        await emulator.clock.advance(1)
    assert [entry["event"] for entry in logs] == ["the boot failed"]


async def test_a_fault_is_announced_at_once(emulator: Emulator) -> None:
    client = Client(emulator)
    seen: list[tuple[str, dict[str, Any]]] = []
    emulator.listeners.add(lambda kind, data: seen.append((kind, data)))
    client.lines()
    emulator.trip(ErrorFlag.GFCI, "gfci")
    assert client.lines() == ["$AT 06 01 32 0080"]
    assert client.ask("$GF") == ["$OK 1 0 0"]
    assert seen == [
        ("state_change", {"state": 6, "state_name": "gfci"}),
        ("error", {"error": "gfci", "message": "gfci fault"}),
    ]


async def test_the_legacy_profile_announces_no_commands() -> None:
    emulator = make(evse__profile="legacy")
    client = Client(emulator)
    assert client.ask("$FS") == ["$OK"]
    with emulator.change():
        emulator.car.connect()
    assert client.lines() == ["$AT FD 02 32 0100"]


async def test_observers_get_both_directions_once(emulator: Emulator) -> None:
    class Observer(Client):
        def __init__(self) -> None:
            self.raw = b""

    observer = Observer()
    emulator.line.observers.add(observer)
    one, _ = Client(emulator), Client(emulator)
    observer.lines()
    one.ask("$FS")
    assert observer.lines() == ["$FS", "$OK", "$AT FE 01 32 0000"]


async def test_ids_differ_by_port() -> None:
    ids = {make(web__port=port).evse.mcuid for port in (8080, 8081, 8082)}
    assert len(ids) == 3 and all(one[:6].isalpha() and int(one[6:], 16) >= 0 for one in ids)
    assert make(web__port=8080).evse.mcuid in ids


def rules(emulator: Emulator, *given: dict[str, Any]) -> None:
    emulator.line.set_faults(parse({"seed": 1, "rules": list(given)}))


async def test_frames_are_lost_doubled_and_spoilt(emulator: Emulator) -> None:
    client = Client(emulator)
    for rule, lines, received in [
        ({"kind": "drop", "direction": "rx"}, [], State.NOT_CONNECTED),
        ({"kind": "drop", "direction": "tx", "count": 1}, ["$AT FE 01 32 0000"], State.SLEEPING),
        ({"kind": "corrupt", "direction": "rx"}, ["$NK"], State.NOT_CONNECTED),
        ({"kind": "truncate", "direction": "rx"}, [], State.NOT_CONNECTED),
        ({"kind": "duplicate", "direction": "rx"}, ["$OK", "$AT FE 01 32 0000", "$OK"], State.SLEEPING),
        ({"kind": "duplicate", "direction": "tx", "match": "OK"}, ["$OK", "$OK", "$AT FE 01 32 0000"], State.SLEEPING),
    ]:
        rules(emulator, rule)
        client.lines()
        client.end.received(encode("FS"))
        assert client.lines() == lines, rule
        assert emulator.evse.state is received, rule
        emulator.line.set_faults(parse({"rules": []}))
        client.ask("$FE")
    assert emulator.line.log.totals["duplicate"] == 2


async def test_a_truncated_reply_has_no_end_and_the_next_one_is_well(emulator: Emulator) -> None:
    client = Client(emulator)
    rules(emulator, {"kind": "truncate", "direction": "tx", "count": 1})
    client.raw = b""
    client.end.received(b"$GV\r")
    assert b"\r" not in client.raw and b"$OK 8.2.1 5.0.1".startswith(client.raw[:5])
    client.end.received(b"$G0\r")
    assert client.raw.endswith(b"$OK 0^30\r")


async def test_delays_keep_the_order(emulator: Emulator) -> None:
    client = Client(emulator)
    rules(emulator, {"kind": "delay", "direction": "tx", "delay_ms": [30, 30], "match": "5.0.1", "count": 1})
    assert client.ask("$GV\r$G0") == []
    await asyncio.sleep(0.1)
    assert client.lines() == ["$OK 8.2.1 5.0.1", "$OK 0"]
    assert client.ask("$G0") == ["$OK 0"]
    [entry] = emulator.line.log.entries
    assert entry == {
        "n": 1,
        "time_s": 0.0,
        "client": "client",
        "direction": "tx",
        "rule": 0,
        "kind": "delay",
        "frame": "$OK 8.2.1 5.0.1^2F",
        "delay_ms": 30,
    }


async def test_a_stall_stops_both_directions_of_all(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Client(emulator), Client(emulator)
    rules(emulator, {"kind": "stall", "direction": "rx", "delay_ms": [30, 30], "count": 1})
    loop = asyncio.get_running_loop()
    now = loop.time()
    with monkeypatch.context() as at_once:
        at_once.setattr(loop, "time", lambda: now)
        assert one.ask("$G0") == [] and two.ask("$GV") == []
    await asyncio.sleep(0.1)
    assert one.lines() == ["$OK 0"] and two.lines() == ["$OK 8.2.1 5.0.1"]


async def test_disconnect_and_reboot(emulator: Emulator) -> None:
    one, two = Client(emulator), Client(emulator)
    rules(emulator, {"kind": "disconnect", "match": "GV"}, {"kind": "reboot", "direction": "rx", "match": "SC"})
    one.ask("$GV")
    assert (one.hung_up, two.hung_up) == (True, False)
    three = Client(emulator)
    three.ask("$GV\r$FS")
    assert three.hung_up and emulator.evse.state is State.NOT_CONNECTED, "what follows is lost"
    assert two.ask("$SC 10") == []
    assert emulator.evse.pilot.stored_max == 32 and not emulator.evse.on
    await settle()
    await emulator.clock.advance(0.5)
    assert two.lines() == ["$AB 00 8.2.1", "$AT 00 01 32 0000"]
    await emulator.clock.advance(1)
    assert two.lines() == ["$AT 01 01 32 0000"]


async def test_a_booted_charger_waits_for_its_gateway(emulator: Emulator) -> None:
    """Offers begin with what the gateway says, not with all that the charger has."""
    client = Client(emulator)
    with emulator.change():
        emulator.evse.car.connect()
        emulator.evse.car.request()
    emulator.reboot()
    await settle()
    await emulator.clock.advance(0.5)
    assert (emulator.evse.state, emulator.evse.current) == (State.STARTING, 0)
    assert client.ask("$SC 8 V")[-1] == "$OK 8"
    await emulator.clock.advance(1)
    assert client.lines()[-1] == "$AT 03 03 8 0140"


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=50),
            st.sampled_from([b"$FR\r", b"$FS\r", b"$SE 1\r", b"$SC 40 V\r", b"$GV^35\r", b"$\r", b"$ \r", b"\r"]),
        ),
        max_size=20,
    )
)
async def test_whatever_comes_only_lines_go_out(pieces: list[bytes]) -> None:
    emulator = make()
    client = Client(emulator)
    echoed = False
    for piece in pieces:
        client.end.received(piece)
        echoed = echoed or emulator.evse.echo
    *lines, rest = client.raw.split(b"\r")
    assert rest == b""
    if not echoed:
        for line in lines:
            frame = decode(line)
            assert frame.checksum is Checksum.GOOD and frame.tokens[0] in ("OK", "NK", "AB", "AT", "AN")
    with emulator.change():
        emulator.evse.power_on()
    emulator.line.silence(False)
    client.end.received(b"\r$SE 0\r")
    assert client.ask("$GV^35") == ["$OK 8.2.1 5.0.1"]
