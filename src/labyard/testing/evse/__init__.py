"""Charger pairs for tests and the bench: emulator, bridge and gateway, all real.

pairs.py       what a pair is, and starting and stopping several of them
settings.py    what the environment says about it
processes.py   pairs as child processes
containers.py  the emulator of such a pair as a container
units.py       pairs as systemd units, which the role evse_pair has deployed
diagnosis.py   what went wrong, and the way out
"""

from labyard.testing.evse.diagnosis import PairError
from labyard.testing.evse.pairs import Pair, Pairs, backend_of
from labyard.testing.evse.settings import Settings

__all__ = ["Pair", "PairError", "Pairs", "Settings", "backend_of"]
