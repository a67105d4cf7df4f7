from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.evse import rapi
from labyard.evse.codes import Control, ErrorFlag, State, Vflag
from labyard.evse.emulator.command_table import MAX_LINE
from labyard.evse.emulator.commands import COMMANDS
from labyard.evse.emulator.controller import Booted, Changed, Evse, Pressed
from labyard.evse.emulator.ev import Car
from labyard.evse.emulator.profile import PROFILES


class Charger:
    """Says what a line is answered with, without checksum."""

    def __init__(self, profile: str = "real", **options: object) -> None:
        self.evse = Evse(Car(), 0.0, wall=datetime(2026, 3, 4, 5, 6, 7), mcuid="LABYRD0A1B2C3D", **options)  # type: ignore[arg-type]
        self.profile = PROFILES[profile]
        self.now = 0.0

    def ask(self, line: str) -> str:
        words = self.profile.commands.execute(self.evse, self.now, rapi.decode(b"$" + line.encode("latin-1")).tokens)
        return " ".join(map(str, words))

    def announced(self) -> list[str]:
        lines = [" ".join(map(str, self.profile.describe(event, "8.2.1"))) for event in self.evse.events]
        self.evse.events.clear()
        return lines

    def charge(self) -> Charger:
        with self.evse.at(self.now):
            self.evse.car.connect()
            self.evse.car.request()
        self.now += 1
        self.evse.tick(self.now)
        self.evse.events.clear()
        return self


AT_REST = [
    ("GV", "OK 8.2.1 5.0.1"),
    ("gv", "OK 8.2.1 5.0.1"),
    ("GS", "OK 01 0 01 0000"),
    ("GE", "OK 32 0001"),
    ("GC", "OK 6 80 32 32"),
    ("GF", "OK 0 0 0"),
    ("GA", "OK 220 0"),
    ("GI", "OK LABYRD0A1B2C3D"),
    ("GG", "OK 0 240000"),
    ("GP", "OK 250 250 -2560"),
    ("GU", "OK 0 0"),
    ("GT", "OK 26 3 4 5 6 7"),
    ("GD", "OK 0 0 0 0"),
    ("GH", "OK 0"),
    ("G3", "OK 0"),
    ("G0", "OK 0"),
    ("GM", "OK 100 0"),
    ("GO", "OK 650 690"),
    ("GY", "OK 0 0 0"),
    ("SC 16", "OK 16"),
    ("SC 16 V", "OK 16"),
    ("SC 16 v", "OK 16"),
    ("SC 4", "NK 6"),
    ("SC 40 V", "NK 32"),
    ("SC 100", "NK 80"),
    ("SC 40 M", "OK 40"),
    ("SC 90 M", "NK 80"),
    ("SC 16 X", "NK"),
    ("SC x", "NK"),
    ("SC -1", "NK"),
    ("SC", "NK"),
    ("SC 16 V V", "NK"),
    ("SA 221 -3", "OK"),
    ("SA 221", "NK"),
    ("SM 99 1", "OK"),
    ("S1 27 2 28 23 59 58", "OK"),
    ("S1 27 2 30 0 0 0", "NK"),
    ("S1 27 2", "NK"),
    ("ST 22 30 6 15", "OK"),
    ("ST 24 0 0 0", "NK"),
    ("ST 0 60 0 0", "NK"),
    ("SH 5", "NK"),
    ("S3 2", "NK"),
    ("SL 1", "OK"),
    ("SL 2", "OK"),
    ("SL A", "OK"),
    ("SL a", "OK"),
    ("SL 3", "NK"),
    ("SV 230000", "OK"),
    ("SV 0", "NK"),
    ("SK 12345", "OK"),
    ("SK -1", "NK"),
    ("SB", "OK 0"),
    ("SE 1", "OK"),
    ("SE 2", "NK"),
    ("SY 5 6", "OK 5 6 0"),
    ("SY 5 5", "NK"),
    ("SY", "OK 0 0 0"),
    ("SY 165", "OK 0 0 0"),
    ("SY 164", "NK"),
    ("FE", "OK"),
    ("FS", "OK"),
    ("FD", "OK"),
    ("FR", "OK"),
    ("F0 0", "OK"),
    ("F0 2", "NK"),
    ("F1", "OK"),
    ("FB 7", "OK"),
    ("FB 8", "NK"),
    ("FP 0 0 hello", "OK"),
    ("FP 15 1 x", "OK"),
    ("FP 16 0 x", "NK"),
    ("FP 0 2 x", "NK"),
    ("FP 0 0", "NK"),
    *((f"FF {letter} {value}", "OK") for letter in "BDEFGRTVOLPZ" for value in "01"),
    ("FF X 1", "NK"),
    ("FF D 2", "NK"),
    ("FF D", "NK"),
    ("GS 1", "NK"),
    ("GV 1 2 3 4 5 6 7 8 9 10", "NK"),
    ("XX", "NK"),
    ("G", "NK"),
    ("", "NK"),
    *((first + second, "NK") for first, second in zip("GGSFFGFFSSSGSGTZ", "ZRRCOLHK02445500", strict=True)),
]


@pytest.mark.parametrize(("line", "reply"), AT_REST)
def test_replies_of_a_charger_at_rest(line: str, reply: str) -> None:
    assert Charger().ask(line) == reply


def test_every_command_is_in_the_table_above() -> None:
    assert set(COMMANDS) == {line.split()[0].upper() for line, reply in AT_REST if line and reply.startswith("OK")} | {
        "SH",
        "S3",
    }


def test_what_is_set_is_read_back() -> None:
    charger = Charger()
    for line, get, reply in [
        ("SA 221 -3", "GA", "OK 221 -3"),
        ("SM 99 1", "GM", "OK 99 1"),
        ("ST 22 30 6 15", "GD", "OK 22 30 6 15"),
        ("SY 5 6", "GY", "OK 5 6 0"),
        ("SV 230000", "GG", "OK 0 230000"),
        ("SK 12345", "GU", "OK 0 12345"),
        ("S1 27 2 28 23 59 58", "GT", "OK 27 2 28 23 59 58"),
        ("SL 1", "GG", "OK 0 120000"),
        ("SL 1", "GE", "OK 32 0000"),
        ("SL 2", "GE", "OK 32 0001"),
        ("SC 20", "GC", "OK 6 80 20 20"),
        ("SC 16 V", "GC", "OK 6 80 16 20"),
        ("SC 40 M", "GC", "OK 6 40 16 20"),
        ("SC 50 M", "GC", "OK 6 40 16 20"),
    ]:
        charger.ask(line)
        assert charger.ask(get) == reply, line
    assert charger.ask("SC 30 M") == "NK 40", "the hardware's maximum is set once"


def test_the_clock_goes_on() -> None:
    charger = Charger()
    charger.ask("S1 27 2 28 23 59 58")
    charger.now += 3
    assert charger.ask("GT") == "OK 27 3 1 0 0 1"


@pytest.mark.parametrize(
    ("letter", "bit"),
    [
        ("B", Control.BUTTON_OFF),
        ("D", Control.DIODE_OFF),
        ("F", Control.GFI_TEST_OFF),
        ("G", Control.GROUND_OFF),
        ("L", Control.BOOT_LOCK_OFF),
        ("R", Control.RELAY_OFF),
        ("T", Control.TEMPERATURE_OFF),
        ("V", Control.VENT_OFF),
        ("Z", Control.ZERO_CROSS_OFF),
    ],
)
def test_features_are_bits_of_ge(letter: str, bit: Control) -> None:
    charger = Charger()
    charger.ask(f"FF {letter} 0")
    assert charger.ask("GE") == f"OK 32 {bit | Control.L2_SERVICE:04X}"
    charger.ask(f"FF {letter} 1")
    assert charger.ask("GE") == "OK 32 0001"


def test_while_it_charges() -> None:
    charger = Charger().charge()
    charger.now += 100
    charger.evse.tick(charger.now)
    assert charger.ask("GS") == "OK 03 101 03 0140"
    assert charger.ask("GG") == "OK 30000 240000"
    assert charger.ask("GU") == "OK 720000 200"
    assert charger.ask("G0") == "OK 1"
    assert (charger.ask("SH 5"), charger.ask("GH")) == ("OK", "OK 5")
    assert (charger.ask("S3 2"), charger.ask("G3")) == ("OK", "OK 2")
    assert charger.ask("SH 256") == "NK"


def test_older_protocols_report_the_state_in_decimal() -> None:
    charger = Charger(protocol="4.0.1").charge()
    charger.ask("FS")
    assert charger.ask("GS") == "OK 254 1"


def test_fault_counts_are_hexadecimal() -> None:
    charger = Charger()
    charger.evse.protection.counts[ErrorFlag.GFCI] = 26
    assert charger.ask("GF") == "OK 1A 0 0"


def test_in_a_fault() -> None:
    charger = Charger()
    with charger.evse.at(0):
        charger.evse.protection.trip(ErrorFlag.GFCI)
    assert (charger.ask("FE"), charger.ask("SB"), charger.ask("FS")) == ("NK", "OK 1", "OK")
    assert charger.ask("GS") == "OK 06 0 01 0080"


def test_commands_that_change_the_state_are_announced() -> None:
    charger = Charger().charge()
    for line, announced in [
        ("FS", ["AT FE 02 32 0100"]),
        ("FS", []),
        ("FD", ["AT FF 02 32 0100"]),
        ("FE", ["AT 03 03 32 0140"]),
        ("SC 16 V", []),
        ("SC 40 V", ["AT 03 03 32 0140"]),
        ("SC 32 V", []),
        ("SC 40 V", ["AT 03 03 32 0140"]),
        ("F1", ["AN 0"]),
        ("GS", []),
    ]:
        charger.ask(line)
        assert charger.announced() == announced, line


def test_the_heartbeat_s_replies() -> None:
    charger = Charger()
    charger.ask("SY 5 6")
    charger.now = 6
    assert charger.ask("GY") == "OK 5 6 2"
    assert charger.ask("SY") == "NK 5 6 2"
    assert charger.ask("GC") == "OK 6 80 6 32"
    assert charger.ask("SC 16 V") == "NK 6"
    assert charger.ask("SY 165") == "OK 5 6 1"
    assert charger.ask("SY") == "OK 5 6 1"
    assert charger.ask("GC") == "OK 6 80 16 32"


def test_text_keeps_its_spaces() -> None:
    charger = Charger()
    charger.ask("FP 0 0 a\xfe\xfe\xfeb\x11c")
    charger.ask("FP 14 1 a b c")
    charger.ask("FP 2 0 X")
    assert charger.evse.display.rows == ["a X b c         ", "              a "]


def test_asynchronous_lines() -> None:
    describe = PROFILES["real"].describe
    assert describe(Booted(0), "8.2.1") == ["AB", "00", "8.2.1"]
    changed = Changed(State.CHARGING, 3, 16, Vflag.CAR_CONNECTED | Vflag.RELAY_CLOSED)
    assert rapi.encode(*describe(changed, "")) == b"$AT 03 03 16 0140^33\r"
    assert describe(Pressed(), "") == ["AN", 0]


def test_the_legacy_profile_has_the_public_image_s_manners() -> None:
    charger = Charger("legacy").charge()
    charger.evse.protection.counts[ErrorFlag.GFCI] = 26
    assert charger.ask("SC 16 V") == "OK"
    assert charger.ask("SC 99 V") == "OK"
    assert charger.ask("SC x") == "NK"
    assert charger.ask("GF") == "OK 26 0 0"
    assert charger.ask("GU") == "OK 0 0"
    charger.evse.total_wh = 5
    assert charger.ask("GU") == "OK 5 0"
    assert charger.ask("GG") == "OK 30000 240000 0 0"
    assert charger.ask("FS") == "OK"
    assert charger.ask("GS") == "OK FD 1 02 0100"
    charger.announced()
    with charger.evse.at(charger.now):
        charger.evse.protection.trip(ErrorFlag.DIODE)
    assert charger.ask("GE") == "OK 32 8"
    assert charger.announced() == ["AT FE 02 32 0100"]
    assert charger.ask("GV") == "OK 8.2.1 5.0.1"


@given(
    st.one_of(
        st.text(st.characters(max_codepoint=0xFF), max_size=MAX_LINE),
        st.builds(
            lambda name, words: " ".join([name, *words]),
            st.sampled_from(sorted(COMMANDS)),
            st.lists(st.text(st.characters(max_codepoint=0xFF), max_size=6), max_size=8),
        ),
    )
)
def test_any_line_gets_ok_or_nk(line: str) -> None:
    charger = Charger().charge()
    reply = charger.ask(line)
    assert reply.split(" ")[0] in ("OK", "NK")
    assert b"$" not in rapi.encode(*reply.split(" "))[1:]
    charger.now += 1
    charger.evse.tick(charger.now)
