"""RAPI's commands, as the real controller answers them (contract 2.2). What the public image does otherwise is in
profile.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time

from labyard.evse import rapi
from labyard.evse.codes import Control
from labyard.evse.emulator.command_table import MAX_TOKENS, Answer, CommandTable, Refused, number
from labyard.evse.emulator.config import MAX_AMPS, MIN_AMPS
from labyard.evse.emulator.controller import Evse
from labyard.evse.emulator.display import COLOURS, COLUMNS, ROWS
from labyard.evse.emulator.temperature import STOP_AMBIENT, STOP_INFRARED

COMMANDS = CommandTable()
REBOOT = "FR"

_ABSENT_SENSOR = -2560
_ACKNOWLEDGE = "165"
_HIGHEST_MILLIVOLTS = 1_000_000
_HIGHEST = 2**31 - 1
# $FF: letter and the control bit that says "off"; None: taken, and without effect here.
_FEATURES: dict[str, Control | None] = {
    "B": Control.BUTTON_OFF,
    "D": Control.DIODE_OFF,
    "F": Control.GFI_TEST_OFF,
    "G": Control.GROUND_OFF,
    "L": Control.BOOT_LOCK_OFF,
    "R": Control.RELAY_OFF,
    "T": Control.TEMPERATURE_OFF,
    "V": Control.VENT_OFF,
    "Z": Control.ZERO_CROSS_OFF,
    "O": None,
    "P": None,
}


# What it is


@COMMANDS.command("GV")
def _version(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return evse.firmware, evse.protocol


@COMMANDS.command("GI")
def _mcuid(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return (evse.mcuid,)


# State


@COMMANDS.command("GS")
def _state(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    report = evse.report()
    elapsed = int(evse.session.seconds)
    if int(evse.protocol.split(".")[0]) < 5:
        return int(report.state), elapsed
    return f"{report.state:02X}", elapsed, f"{report.pilot:02X}", f"{report.flags:04X}"


@COMMANDS.command("G0")
def _connected(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return (int(evse.car.connected),)


@COMMANDS.command("GF")
def _fault_counts(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return tuple(f"{count:X}" for count in evse.protection.counts.values())


@COMMANDS.command("FE")
def _enable(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    if not evse.enable():
        raise Refused
    return ()


@COMMANDS.command("FS")
def _sleep(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    evse.sleep()
    return ()


@COMMANDS.command("FD")
def _disable(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    evse.disable()
    return ()


@COMMANDS.command("SB")
def _unlock(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return (0 if evse.unlock() else 1,)


@COMMANDS.command(REBOOT)
def _reboot(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return ()


# Current


@COMMANDS.command("GC")
def _capacity(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return MIN_AMPS, evse.pilot.hardware_max, evse.pilot.amps, evse.pilot.stored_max


@COMMANDS.command("SC", 1, 2)
def _set_capacity(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    amps = number(arguments[0], 0, 999)
    kind = arguments[1].upper() if len(arguments) == 2 else ""
    if kind == "M":
        if not evse.pilot.set_hardware_max(amps):
            raise Refused(evse.pilot.hardware_max)
        return (amps,)
    if kind not in ("", "V"):
        raise Refused
    if kind == "V":
        evse.pilot.set(amps)
    else:
        evse.pilot.set_stored_max(amps)
    if evse.pilot.amps != amps:
        evse.announce_anyway()
        raise Refused(evse.pilot.amps)
    evse.keep_pilot_quiet()
    return (amps,)


@COMMANDS.command("GE")
def _settings(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return evse.pilot.amps, f"{evse.control:04X}"


@COMMANDS.command("GG")
def _measured(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return round(evse.current * 1000), evse.millivolts


@COMMANDS.command("GA")
def _current_scale(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return evse.current_scale


@COMMANDS.command("SA", 2)
def _set_current_scale(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.current_scale = _scale(arguments)
    return ()


@COMMANDS.command("GM")
def _voltage_scale(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return evse.voltage_scale


@COMMANDS.command("SM", 2)
def _set_voltage_scale(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.voltage_scale = _scale(arguments)
    return ()


def _scale(arguments: Sequence[str]) -> tuple[int, int]:
    return number(arguments[0], -_HIGHEST, _HIGHEST), number(arguments[1], -_HIGHEST, _HIGHEST)


@COMMANDS.command("SL", 1)
def _set_level(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    levels = {"1": "L1", "2": "L2", "A": "Auto"}
    if arguments[0].upper() not in levels:
        raise Refused
    evse.set_level(levels[arguments[0].upper()])
    return ()


@COMMANDS.command("SV", 1)
def _set_voltage(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.millivolts = number(arguments[0], 1, _HIGHEST_MILLIVOLTS)
    return ()


# Energy and limits


@COMMANDS.command("GU")
def _energy(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return int(evse.session.watt_seconds), int(evse.total_wh)


@COMMANDS.command("SK", 1)
def _set_energy(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.total_wh = float(number(arguments[0], 0, _HIGHEST))
    return ()


@COMMANDS.command("GH")
def _charge_limit(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return (evse.session.charge_limit_kwh,)


@COMMANDS.command("SH", 1)
def _set_charge_limit(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.session.charge_limit_kwh = _limit(evse, arguments)
    return ()


@COMMANDS.command("G3")
def _time_limit(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return (evse.session.time_limit,)


@COMMANDS.command("S3", 1)
def _set_time_limit(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.session.time_limit = _limit(evse, arguments)
    return ()


def _limit(evse: Evse, arguments: Sequence[str]) -> int:
    if not evse.car.connected:
        raise Refused
    return number(arguments[0], 0, 255)


# Temperature


@COMMANDS.command("GP")
def _temperatures(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    tenths = round(evse.warmth.celsius * 10)
    return tenths, tenths, _ABSENT_SENSOR


@COMMANDS.command("GO")
def _thresholds(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return round(STOP_AMBIENT * 10), round(STOP_INFRARED * 10)


# Clock, delay timer, heartbeat


@COMMANDS.command("GT")
def _time(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    at = evse.wall.read(now)
    return at.year % 100, at.month, at.day, at.hour, at.minute, at.second


@COMMANDS.command("S1", 6)
def _set_time(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    year, month, day, hour, minute, second = (number(text, 0, 99) for text in arguments)
    try:
        evse.wall.set(datetime(2000 + year, month, day, hour, minute, second), now)
    except ValueError:
        raise Refused from None
    return ()


@COMMANDS.command("GD")
def _delay_timer(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    start, stop = evse.timer.start, evse.timer.stop
    return start.hour, start.minute, stop.hour, stop.minute


@COMMANDS.command("ST", 4)
def _set_delay_timer(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    hours = [number(text, 0, 23) for text in arguments[::2]]
    minutes = [number(text, 0, 59) for text in arguments[1::2]]
    evse.timer.set(time(hours[0], minutes[0]), time(hours[1], minutes[1]))
    return ()


@COMMANDS.command("GY")
def _heartbeat(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    return _heartbeat_words(evse)


@COMMANDS.command("SY", 0, 1, 2)
def _beat(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    heartbeat = evse.heartbeat
    if len(arguments) == 2:
        seconds, amps = number(arguments[0], 0, 65535), number(arguments[1], 0, MAX_AMPS)
        if 0 < amps < MIN_AMPS:
            raise Refused
        heartbeat.set(seconds, amps, now)
    elif arguments:
        if arguments[0] != _ACKNOWLEDGE:
            raise Refused
        heartbeat.acknowledge(now)
    elif not heartbeat.pulse(now):
        raise Refused(*_heartbeat_words(evse))
    return _heartbeat_words(evse)


def _heartbeat_words(evse: Evse) -> Answer:
    return evse.heartbeat.interval, evse.heartbeat.amps, int(evse.heartbeat.trigger)


# Features, display, button


@COMMANDS.command("FF", 2)
def _feature(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    letter, on = arguments[0].upper(), bool(number(arguments[1], 0, 1))
    if letter == "E":
        evse.echo = on
    elif letter not in _FEATURES:
        raise Refused
    elif bit := _FEATURES[letter]:
        evse.protection.switch_check(bit, on)
    if letter == "L":
        evse.locks_at_boot = on
    return ()


@COMMANDS.command("SE", 1)
def _echo(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.echo = bool(number(arguments[0], 0, 1))
    return ()


@COMMANDS.command("F0", 1)
def _display_updates(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.display.updates = bool(number(arguments[0], 0, 1))
    return ()


@COMMANDS.command("F1")
def _button(evse: Evse, now: float, _: Sequence[str]) -> Answer:
    evse.press()
    return ()


@COMMANDS.command("FB", 1)
def _colour(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    evse.display.colour = number(arguments[0], 0, COLOURS - 1)
    return ()


@COMMANDS.command("FP", *range(3, MAX_TOKENS))
def _print(evse: Evse, now: float, arguments: Sequence[str]) -> Answer:
    column, row = number(arguments[0], 0, COLUMNS - 1), number(arguments[1], 0, ROWS - 1)
    text = " ".join(arguments[2:])
    for byte in (rapi.SPACE, "\x11"):
        text = text.replace(byte, " ")
    evse.display.write(row, text, column)
    return ()
