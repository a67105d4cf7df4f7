"""The time of day at the charger, and its zone: contract 5.4."""

from __future__ import annotations

import io
import struct
import time
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from labyard.evse.clock import Clock

# A clock that says it is earlier was never set.
EARLIEST = datetime(2021, 1, 1, tzinfo=UTC).timestamp()
LATEST = datetime(2099, 1, 1, tzinfo=UTC).timestamp()


class WallClock:
    """Begins with the host's time, goes on at the pace of the charger's clock, and can be set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = time.time() - clock.now()
        self.synchronised: datetime | None = None
        self.zone: tzinfo = UTC

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._start + self._clock.now(), UTC)

    def local(self) -> datetime:
        return self.now().astimezone(self.zone)

    def set(self, moment: datetime) -> None:
        self._start = moment.timestamp() - self._clock.now()

    def synchronise(self) -> None:
        """Take the host's time, which a lab's machines keep."""
        self._start = time.time() - self._clock.now()
        self.synchronised = self.now()

    @property
    def is_set(self) -> bool:
        return self.now().timestamp() >= EARLIEST


def parse_time(text: str) -> datetime:
    """ISO 8601; without a zone it is UTC. ValueError: it is not, or not of this century."""
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not EARLIEST <= moment.timestamp() <= LATEST:
        raise ValueError("out of range")
    return moment


def zone(name: str) -> tzinfo:
    """The zone of "Europe/London|GMT0BST,M3.5.0/1,M10.5.0": its second half is enough, and needs no zone database.
    ValueError: it is none."""
    place, _, rule = name.partition("|")
    if rule:
        # A time zone file that has nothing but its last line, which is this rule (RFC 8536). Its first part is the
        # old format and must be there.
        header = struct.pack(">4s1s15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4)
        block = struct.pack(">lBB4s", 0, 0, 0, b"UTC\0")
        content = header + block + header + block + b"\n" + rule.encode("ascii", "replace") + b"\n"
        found: tzinfo = ZoneInfo.from_file(io.BytesIO(content), key=place)
    else:
        try:
            found = ZoneInfo(place)
        except (OSError, ValueError, KeyError) as problem:
            raise ValueError(f"no time zone {place!r} on this host") from problem
    datetime.now(UTC).astimezone(found)  # it may be read only now
    return found


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def offset(moment: datetime) -> str:
    return moment.strftime("%z")


def rapi_words(moment: datetime) -> str:
    """Arguments of `$S1`."""
    return f"{moment:%y} {moment.month} {moment.day} {moment.hour} {moment.minute} {moment.second}"


def week_seconds(moment: datetime) -> tuple[int, timedelta]:
    """Day of the week, 0 = Sunday, and the time since its midnight."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return moment.isoweekday() % 7, moment.replace(tzinfo=None) - midnight.replace(tzinfo=None)
