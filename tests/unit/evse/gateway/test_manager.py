from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evse.gateway.rig import Rig
from labyard.evse.gateway import rapi_client
from labyard.evse.gateway.claims import Cap, Client, Priority, Properties, SafetyCaps
from labyard.evse.gateway.options import BadOption
from labyard.evse.rapi import encode

BOOT = ["GV", "GF", "GE", "GC", "GA", "GI", "GS"]


async def test_asks_in_the_order_of_the_boot_chain(rig: Rig) -> None:
    rig.plug()
    await rig.until(lambda: rig.manager.ready)
    assert rig.peer.heard[:7] == BOOT
    evse = rig.evse
    assert (evse.firmware, evse.protocol, evse.serial) == ("8.2.1", "5.0.1", "EVSE01ABCDEF")
    assert (evse.min, evse.hardware_max, evse.pilot, evse.configured_max) == (6, 80, 32, 32)
    assert rig.options["max_current_soft"] == 32
    assert rig.manager.rapi.sequenced


async def test_an_evse_without_sequence_ids_is_spoken_to_without(rig: Rig) -> None:
    rig.peer.sequenced = False
    rig.plug()
    await rig.until(lambda: rig.manager.ready)
    assert rig.peer.heard[:8] == ["GV", "GF", *BOOT[1:]]
    assert not rig.manager.rapi.sequenced


async def test_a_lost_first_probe_is_repeated_when_a_line_comes(rig: Rig) -> None:
    rig.peer.answers["GV"] = None
    rig.plug()
    await rig.until(lambda: rig.peer.heard)
    await rig.quiet()
    rig.peer.answers["GV"] = "OK 8.2.1 5.0.1"
    rig.peer.say("AB 00 8.2.1")
    await rig.until(lambda: rig.manager.ready)


@pytest.mark.parametrize("command", ["GF", "GE", "GC", "GA", "GI"])
async def test_is_ready_only_when_all_of_it_is_answered(rig: Rig, command: str) -> None:
    good, rig.peer.answers[command] = rig.peer.answers[command], "NK"
    rig.plug()
    await rig.until(lambda: command in rig.peer.heard)
    await rig.quiet()
    assert not rig.manager.ready
    rig.peer.answers[command] = good
    rig.peer.say("AB 00 8.2.1")
    await rig.until(lambda: rig.manager.ready)


async def test_a_rebooted_evse_is_asked_again_and_told_again(rig: Rig) -> None:
    rig.sets_pilot()
    rig.claims.set(1, Priority.API, Properties(max_current=10))
    await rig.ready()
    rig.peer.answers["GC"] = "OK 6 80 32 32"
    rig.peer.say("AB 00 8.2.1")
    await rig.until(lambda: "GS" in rig.peer.heard)
    assert rig.peer.heard[:8] == ["GV", "SC 10 V", *BOOT[1:]]


async def test_a_rebooted_evse_that_may_not_charge_is_told_first(rig: Rig) -> None:
    rig.sleeps()
    rig.claims.set(1, Priority.API, Properties(state="disabled"))
    await rig.ready()
    rig.peer.answers["GS"] = "OK 03 0 03 0140"
    rig.peer.say("AB 00 8.2.1")
    await rig.until(lambda: "GI" in rig.peer.heard)
    assert rig.peer.heard[:3] == ["GV", "FS", "GF"]


async def test_three_timeouts_and_it_begins_anew(rig: Rig) -> None:
    await rig.ready()
    silenced = dict(rig.peer.answers)
    rig.peer.answers = dict.fromkeys(silenced)
    for _ in range(3):
        await rig.manager.read("$GS")
    assert not rig.manager.ready
    assert not rig.manager.rapi.connected
    rig.peer.answers = silenced
    rig.peer.say("AT 01 01 32 0000")
    await rig.until(lambda: rig.manager.ready)


async def test_one_timeout_and_it_looks_closer(rig: Rig) -> None:
    await rig.ready()
    answers = dict(rig.peer.answers)
    rig.peer.answers = dict.fromkeys(answers)
    await rig.manager.read("$GP")
    for _ in range(2):
        await rig.clock.advance(1)
        await rig.quiet()
    assert rig.peer.heard[:3] == ["GP", "GS", "GS"]
    await rig.until(lambda: not rig.manager.rapi.connected)


async def test_a_voltage_that_was_set_is_told_after_each_boot(rig: Rig) -> None:
    rig.peer.answers["SV"] = "OK"
    rig.options.update({"voltage": 23000})
    await rig.manager.flush()
    rig.plug()
    await rig.until(lambda: "SV 230000" in rig.peer.heard)
    rig.peer.heard.clear()
    rig.peer.say("AB 00 8.2.1")
    await rig.until(lambda: "SV 230000" in rig.peer.heard)


async def test_boot_lock_is_opened(rig: Rig) -> None:
    rig.peer.answers |= {"GS": "OK 01 0 01 4000", "SB": "OK 0"}
    rig.plug()
    await rig.until(lambda: rig.manager.ready)
    assert "SB" in rig.peer.heard


async def test_the_pilot_is_the_least_of_all_but_not_below_the_minimum(rig: Rig) -> None:
    rig.sets_pilot()
    await rig.ready()
    rig.claims.set(1, Priority.API, Properties(charge_current=20, max_current=24))
    await rig.until(lambda: rig.evse.pilot == 20)
    assert rig.peer.heard == ["SC 20 V"]
    assert rig.manager.max_current == 24
    rig.claims.set(2, Priority.SAFETY, Properties(max_current=0))
    await rig.until(lambda: rig.evse.pilot == 6)
    rig.claims.release(1)
    rig.claims.release(2)
    await rig.until(lambda: rig.evse.pilot == 32)


async def test_a_clamped_pilot_is_not_asked_for_again_and_again(rig: Rig) -> None:
    rig.sets_pilot(most=12)
    await rig.ready()
    rig.claims.set(1, Priority.API, Properties(charge_current=20))
    await rig.until(lambda: rig.evse.pilot == 12)
    await rig.pass_seconds(3)
    assert rig.peer.heard == ["SC 20 V"]


async def test_a_bare_ok_to_sc_is_looked_after(rig: Rig) -> None:
    await rig.ready()

    def answer(_: str) -> str:
        rig.peer.answers["GC"] = "OK 6 80 20 32"
        return "OK"

    rig.peer.answers["SC"] = answer
    rig.claims.set(1, Priority.API, Properties(charge_current=20))
    await rig.until(lambda: rig.evse.pilot == 20)
    assert rig.peer.heard == ["SC 20 V", "GC"]


async def test_a_lost_command_is_sent_again_with_the_next_tick(rig: Rig) -> None:
    rig.peer.answers["SC"] = None
    await rig.ready()
    rig.claims.set(1, Priority.API, Properties(charge_current=20))
    await rig.until(lambda: rig.peer.heard == ["SC 20 V"])
    await rig.quiet()
    rig.sets_pilot()
    await rig.pass_seconds(1)
    assert rig.peer.heard.count("SC 20 V") == 2
    assert rig.evse.pilot == 20


@pytest.mark.parametrize(("uses_disabled", "command", "state"), [(False, "FS", 254), (True, "FD", 255)])
async def test_disabled_is_asleep(rig: Rig, uses_disabled: bool, command: str, state: int) -> None:
    rig.options.update({"pause_uses_disabled": uses_disabled})
    rig.sleeps()
    await rig.ready()
    rig.claims.set(1, Priority.API, Properties("disabled"))
    await rig.until(lambda: rig.evse.state == state)
    await rig.quiet()
    assert rig.peer.heard == [command, "GS"]
    rig.claims.release(1)
    await rig.until(lambda: rig.evse.state == 1)
    assert rig.peer.heard[2:] == ["FE", "GS"]


async def test_a_sleep_without_an_event_is_found_out(rig: Rig) -> None:
    """The public image: no $AT after $FS, and 253 for asleep, which we show as 254."""
    await rig.ready()
    rig.peer.answers |= {"FS": "OK", "GS": "OK FD 0 01 0000"}
    rig.claims.set(1, Priority.API, Properties("disabled"))
    await rig.until(lambda: rig.evse.state == 254)
    assert rig.evse.asleep
    await rig.pass_seconds(2)
    assert rig.peer.heard == ["FS", "GS"]


async def test_goes_to_sleep_before_and_wakes_after_the_pilot(rig: Rig) -> None:
    rig.sleeps()
    rig.sets_pilot()
    await rig.ready()
    rig.claims.set(1, Priority.API, Properties("disabled", max_current=8))
    await rig.quiet()
    rig.claims.set(1, Priority.API, Properties("active", max_current=16))
    await rig.quiet()
    done = [command for command in rig.peer.heard if command[0] in "FS"]
    assert done == ["FS", "SC 8 V", "SC 16 V", "FE"]


async def test_a_sleep_that_is_asked_for_while_the_pilot_is_set_is_not_forgotten(rig: Rig) -> None:
    rig.sleeps()
    rig.sets_pilot()
    await rig.ready()
    set_pilot = rig.peer.answers["SC"]
    assert callable(set_pilot)

    def answer(command: str) -> str:
        rig.claims.set(1, Priority.API, Properties("disabled"))
        return set_pilot(command)

    rig.peer.answers["SC"] = answer
    rig.claims.set(1, Priority.API, Properties(charge_current=16))
    await rig.until(lambda: rig.evse.asleep)


async def test_sleep_by_hand_is_respected_until_somebody_asks_for_another_state(rig: Rig) -> None:
    rig.sleeps()
    await rig.ready()
    caps = SafetyCaps(rig.claims)
    rig.peer.answers["GS"] = "OK FE 0 01 0000"
    rig.peer.say("AT FE 01 32 0000")
    assert rig.manager.asleep_by_others()
    # Load sharing neither wakes it nor takes it for its own.
    caps.set("loadsharing", Cap(0, off=True))
    await rig.quiet()
    caps.set("loadsharing", Cap(16))
    await rig.pass_seconds(2)
    assert rig.evse.asleep
    assert rig.manager.asleep_by_others()
    rig.claims.set(Client.MANUAL, Priority.MANUAL, Properties(charge_current=10))
    await rig.pass_seconds(1)
    assert rig.evse.asleep
    rig.claims.set(Client.MANUAL, Priority.MANUAL, Properties("active"))
    await rig.until(lambda: not rig.evse.asleep)
    assert not rig.manager.asleep_by_others()


async def test_woken_by_hand_against_the_claims_it_is_put_to_sleep_again(rig: Rig) -> None:
    rig.sleeps()
    await rig.ready()
    SafetyCaps(rig.claims).set("loadsharing", Cap(0, off=True))
    await rig.until(lambda: rig.evse.asleep)
    assert not rig.manager.asleep_by_others()
    await rig.quiet()
    rig.peer.heard.clear()
    rig.peer.say("AT 01 01 32 0000")
    await rig.until(lambda: rig.peer.heard and rig.evse.asleep)
    assert rig.peer.heard[0] == "FS"


async def test_automatic_claims_go_only_when_the_car_goes(rig: Rig) -> None:
    await rig.ready()
    rig.claims.set(1, Priority.API, Properties("active"), auto_release=True)
    rig.peer.say("AT 01 01 32 1000")
    assert rig.claims.get(1)
    rig.peer.say("AT 02 02 32 0100")
    assert rig.claims.get(1)
    rig.peer.say("AT 01 01 32 0000")
    assert rig.claims.get(1) is None


async def test_what_is_polled_while_it_charges(rig: Rig) -> None:
    rig.peer.answers |= {"GG": "OK 15600 238500"}
    await rig.ready()
    rig.peer.say("AT 03 03 32 0140")
    await rig.quiet()
    rig.peer.heard.clear()
    await rig.pass_seconds(3)
    assert rig.peer.heard == ["GG", "GC"] * 3
    assert (rig.evse.amp, rig.evse.voltage) == (15600, 238500)
    rig.peer.say("AT 02 02 32 0100")
    assert rig.evse.amp == 0
    await rig.quiet()
    rig.peer.heard.clear()
    await rig.pass_seconds(30)
    assert rig.peer.heard == ["GS", "GP", "GU"]


async def test_a_pilot_that_changed_by_itself_is_put_right(rig: Rig) -> None:
    rig.sets_pilot()
    rig.claims.set(1, Priority.API, Properties(charge_current=16))
    await rig.ready()
    assert rig.evse.pilot == 16
    rig.peer.say("AT 03 03 16 0140")
    await rig.quiet()
    rig.peer.answers["GC"] = "OK 6 80 32 32"
    await rig.pass_seconds(1)
    assert rig.evse.pilot == 16
    assert "SC 16 V" in rig.peer.heard
    rig.peer.answers["GC"] = "OK 6 80 24 32"
    rig.peer.say("AT 03 03 24 0140")  # told at once
    await rig.until(lambda: rig.peer.answers["GC"] == "OK 6 80 16 32")


async def test_settings_are_written_and_read_back(rig: Rig) -> None:
    def answer(_: str) -> str:
        rig.peer.answers["GC"] = "OK 6 80 24 24"
        return "OK 24"

    rig.peer.answers |= {"SC": answer, "FF D 0": "NK", "SD 0": "OK", "SL 1": "OK"}
    await rig.ready()
    rig.peer.answers["GE"] = "OK 24 0002"
    rig.options.update({"max_current_soft": 24, "diode_check": False, "service": 1})
    await rig.manager.flush()
    assert rig.peer.heard[:7] == ["FF D 0", "SD 0", "SC 24", "SL 1", "GE", "GC", "GA"]
    assert (rig.options["max_current_soft"], rig.options["diode_check"], rig.options["service"]) == (24, False, 1)


async def test_a_setting_that_the_evse_refuses_is_taken_back(rig: Rig) -> None:
    await rig.ready()
    rig.options.update({"gfci_check": False})
    await rig.manager.flush()
    assert rig.options["gfci_check"] is True


async def test_a_setting_waits_until_the_evse_is_there(rig: Rig) -> None:
    rig.peer.answers["SC 20"] = "OK 20"
    rig.options.update({"max_current_soft": 20})
    await rig.manager.flush()
    assert rig.peer.heard == []
    assert rig.options["max_current_soft"] == 20
    await rig.ready()
    assert rig.manager.rapi.results[rapi_client.Result.OK] > 8
    with pytest.raises(BadOption, match="max_current_soft must be 6 to 80"):
        rig.options.update({"max_current_soft": 5})


async def test_a_setting_that_was_not_answered_is_written_again(rig: Rig) -> None:
    await rig.ready()
    rig.peer.answers["SC"] = None
    rig.options.update({"max_current_soft": 24, "vent_check": False})
    rig.peer.answers["FF"] = "OK"
    await rig.manager.flush()
    assert rig.peer.heard[:2] == ["SC 24", "FF V 0"]
    assert rig.options["max_current_soft"] == 24
    rig.peer.answers |= {"SC": "OK 24", "GC": "OK 6 80 24 24", "GE": "OK 32 0005"}
    rig.peer.heard.clear()
    await rig.pass_seconds(1)
    assert "SC 24" in rig.peer.heard
    assert "FF V 0" not in rig.peer.heard
    assert rig.options["max_current_soft"] == rig.evse.configured_max == 24
    rig.peer.heard.clear()
    await rig.pass_seconds(1)
    assert rig.peer.heard == []


async def test_a_setting_that_could_not_be_read_back_does_not_go_back(rig: Rig) -> None:
    await rig.ready()
    rig.peer.answers |= {"FF": "OK", "GE": None}
    rig.options.update({"vent_check": False})
    await rig.manager.flush()
    assert rig.options["vent_check"] is False
    rig.peer.answers["GE"] = "OK 32 0005"
    await rig.pass_seconds(1)
    assert rig.options["vent_check"] is False
    assert rig.evse.ecf == 5


async def test_heartbeat_is_off_unless_it_is_wanted(rig: Rig) -> None:
    await rig.ready()
    await rig.pass_seconds(2)
    assert not [command for command in rig.peer.heard if command.startswith("SY")]
    rig.peer.answers |= {"SY 5 6": "OK 5 6 0", "SY": "OK 5 6 0", "SY 165": "OK 5 6 0"}
    rig.options.update({"heartbeat_enabled": True})
    await rig.manager.flush()
    await rig.pass_seconds(1)
    rig.peer.answers["SY"] = "NK 5 6 2"
    await rig.pass_seconds(1)
    assert [command for command in rig.peer.heard if command.startswith("SY")] == ["SY 5 6", "SY", "SY", "SY 165"]


async def test_answers_that_make_no_sense_change_nothing(rig: Rig) -> None:
    await rig.ready()
    for command, answer in {
        "$GS": "OK zz 0 01 0000",
        "$GC": "OK 6 80 -3 32",
        "$GG": "OK a b",
        "$GP": "OK 1",
        "$GU": "OK",
        "$GF": "OK 0 x 0",
        "$GE": "OK 1",
    }.items():
        rig.peer.answers[command[1:]] = answer
        assert not await rig.manager.read(command)
    rig.peer.say("AT 0")
    rig.peer.say("AT 03 03 x 0140")
    assert (rig.evse.state, rig.evse.pilot, rig.evse.temperature) == (1, 32, 250)


async def test_the_button_is_told(rig: Rig) -> None:
    pressed: list[bool] = []
    rig.manager.on_button(lambda: pressed.append(True))
    await rig.ready()
    rig.peer.say("AN 1")
    rig.peer.say("AN 0")
    assert pressed == [True]


words = st.sampled_from(
    ["AT", "AB", "AN", "WF", "ST", "OK", "NK", "", "03", "FE", "0140", "-1", "16", "zz", "1_6", "²"]
)
lines = st.one_of(st.lists(words, max_size=8).map(lambda some: encode(*some)), st.binary(max_size=150))


@given(st.lists(lines, max_size=30))
@settings(max_examples=200, deadline=None)
def test_nothing_that_comes_over_the_line_does_harm(heard: list[bytes]) -> None:
    with TemporaryDirectory() as directory:
        rig = Rig(Path(directory))
        rig.manager.rapi.attach(lambda _: None)
        for data in heard:
            rig.manager.rapi.received(data)
        evse = rig.evse
        assert 0 <= evse.state <= 0xFFFF
        assert 0 <= evse.vflags <= 0xFFFF
        assert evse.elapsed(rig.clock.now()) >= 0
