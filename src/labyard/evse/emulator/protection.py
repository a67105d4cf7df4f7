"""The charger's faults: which there are, which of them count, and how they are reported (contract 2.4)."""

from __future__ import annotations

from labyard.evse.codes import FAULT_ORDER, Control, ErrorFlag, State, Vflag
from labyard.evse.emulator.temperature import Warmth

_CHECK_OFF = {
    ErrorFlag.DIODE: Control.DIODE_OFF,
    ErrorFlag.NO_GROUND: Control.GROUND_OFF,
    ErrorFlag.STUCK_RELAY: Control.RELAY_OFF,
    ErrorFlag.SELF_TEST: Control.GFI_TEST_OFF,
    ErrorFlag.OVER_TEMPERATURE: Control.TEMPERATURE_OFF,
}
_VFLAGS = {
    ErrorFlag.GFCI: Vflag.GFCI_TRIPPED,
    ErrorFlag.NO_GROUND: Vflag.NO_GROUND_TRIPPED,
    ErrorFlag.STUCK_RELAY: Vflag.HARD_FAULT,
    ErrorFlag.SELF_TEST: Vflag.HARD_FAULT,
}
# What the self-test at boot finds, and its code.
_POST = ((ErrorFlag.STUCK_RELAY, 8), (ErrorFlag.SELF_TEST, 9), (ErrorFlag.NO_GROUND, 7))


class Protection:
    """`control` are the bits of `$GE`: some of them switch a check off."""

    def __init__(self, control: Control, warmth: Warmth) -> None:
        self.control = control
        # In the order of $GF.
        self.counts = dict.fromkeys((ErrorFlag.GFCI, ErrorFlag.NO_GROUND, ErrorFlag.STUCK_RELAY), 0)
        self._warmth = warmth
        self._triggered = ErrorFlag(0)

    @property
    def faults(self) -> ErrorFlag:
        """All that were triggered or came by warming."""
        return self._triggered | (ErrorFlag.OVER_TEMPERATURE if self._warmth.too_hot else ErrorFlag(0))

    @property
    def standing(self) -> ErrorFlag:
        """Those whose check is on: they stop the charge."""
        standing = self.faults
        if standing:
            for fault, bit in _CHECK_OFF.items():
                if bit in self.control:
                    standing &= ~fault
        return standing

    @property
    def state(self) -> State | None:
        """The state that a standing fault forces."""
        standing = self.standing
        return next((state for fault, state in FAULT_ORDER if fault in standing), None)

    @property
    def flags(self) -> Vflag:
        flags = Vflag(0)
        if standing := self.standing:
            for fault, shown in _VFLAGS.items():
                if fault in standing:
                    flags |= shown
        return flags

    @property
    def post(self) -> int:
        """What a self-test finds now; 0 is well."""
        standing = self.standing
        return next((code for fault, code in _POST if fault in standing), 0)

    def switch_check(self, bit: Control, on: bool) -> None:
        """The bits say that a check is off."""
        self.control = self.control & ~bit if on else self.control | bit

    def trip(self, fault: ErrorFlag) -> None:
        if fault in self.counts and fault not in self._triggered:
            self.counts[fault] += 1
        self._triggered |= fault

    def clear(self) -> None:
        self._triggered = ErrorFlag(0)
        self._warmth.too_hot = False

    def boot(self) -> None:
        """A GFCI is tripped, not broken: it forgets."""
        self._triggered &= ~ErrorFlag.GFCI
