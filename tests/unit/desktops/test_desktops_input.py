"""What comes before a route's own work: bodies, times, durations, token buckets, settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from labyard.desktops.api.gate import LocalBuckets, Rate
from labyard.desktops.api.json_body import MALFORMED, MAX_DEPTH, parse
from labyard.desktops.fields import Duration, Name, Prose, is_text, parse_time
from labyard.desktops.settings import Settings

DATABASE = "postgresql://u@h/d"


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"NaN",
            b"[Infinity]",
            b"{'a': 1}",
            b"\xff",
            b"9" * 5000,
            b"[" * 5000,
            b'{"a":1}x',
            b"\xef\xbb\xbf{}",
        ],
    )
    def test_what_is_no_json(self, body: bytes) -> None:
        assert parse(body) is MALFORMED

    def test_depth(self) -> None:
        assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not MALFORMED
        assert parse(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)) is MALFORMED
        wide = b"[" + b",".join([b"{}"] * 1000) + b"]"
        assert len(parse(wide)) == 1000

    @given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(), st.lists, max_leaves=20))
    def test_what_is(self, value: Any) -> None:
        import json

        assert parse(json.dumps(value).encode()) == value


class TestTimes:
    @pytest.mark.parametrize(
        "text",
        ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31 12:00:00+00:00", "2026-01-31T13:00:00.000+01:00",
         "20260131T120000Z"],
    )  # fmt: skip
    def test_forms(self, text: str) -> None:
        assert parse_time(text) == datetime(2026, 1, 31, 12, tzinfo=UTC)

    @pytest.mark.parametrize("value", ["", "now", 5, None, True, "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59"])
    def test_what_is_none(self, value: Any) -> None:
        with pytest.raises(ValueError, match="must be a time"):
            parse_time(value)

    @given(st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.timezones()))
    def test_any_zone_is_utc(self, moment: datetime) -> None:
        # In UTC first: Python takes the hour that a clock shows twice for equal to nothing in another zone.
        assert parse_time(moment.isoformat()) == moment.astimezone(UTC)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("1s", 1), ("90s", 90), ("5m", 300), ("1h", 3600), ("30d", 30 * 86400), ("720h", 2592000)]
    )
    def test_forms(self, text: str, seconds: int) -> None:
        assert TypeAdapter(Duration).validate_python(text) == timedelta(seconds=seconds)

    @pytest.mark.parametrize("text", ["", "1", "h", "0s", "-1h", "1.5h", "1w", "31d", "721h", "999999999d", "1h "])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ValidationError):
            TypeAdapter(Duration).validate_python(text)


class TestTexts:
    def test_names_are_trimmed_lines(self) -> None:
        check = TypeAdapter(Name).validate_python
        assert check("  a b ") == "a b"
        for bad in ("a\nb", "a\0", "\x1b[0m", "\ud800"):
            with pytest.raises(ValidationError):
                check(bad)

    def test_prose_has_lines(self) -> None:
        assert TypeAdapter(Prose).validate_python("a\n\tb") == "a\n\tb"
        with pytest.raises(ValidationError):
            TypeAdapter(Prose).validate_python("a\0")

    @given(st.text(st.characters(exclude_categories=("Cc", "Cs"))))
    def test_all_else_is_text(self, value: str) -> None:
        assert is_text(value)


class TestBuckets:
    def test_a_burst_and_then_the_rate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        moment = 1000.0
        monkeypatch.setattr("labyard.desktops.api.gate.time.monotonic", lambda: moment)
        buckets, rate = LocalBuckets(), Rate("r", a_minute=60, burst=3)
        assert [buckets.take("a", rate)[0] for _ in range(4)] == [True, True, True, False]
        assert buckets.take("b", rate)[0], "each has its own"
        moment += 1
        assert [buckets.take("a", rate)[0] for _ in range(2)] == [True, False]
        moment += 3600
        assert buckets.take("a", rate) == (True, 2.0), "no more than the burst is kept"

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("labyard.desktops.api.gate.MAX_LOCAL", 10)
        buckets, rate = LocalBuckets(), Rate("r", 60, 1)
        for number in range(100):
            buckets.take(f"ip:{number}", rate)
        assert len(buckets._kept) == 10


class TestSettings:
    def test_the_environment_names_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("DESKTOPS_DATABASE_URL", DATABASE), ("LABYARD_ENV", "test"), ("DESKTOPS_RATE_POOT", "9")):
            monkeypatch.setenv(name, value)
        settings = Settings()
        assert settings.in_test and settings.rate_poot == 9 and settings.keys == settings.state_dir / "keys"

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"database_url": ""}, "DATABASE_URL is not set"),
            ({"database_url": "sqlite:///x"}, "must begin with postgresql"),
            ({"database_url": "mongodb://localhost:27017/x"}, "not MongoDB"),
            ({"redis_url": "http://x"}, "must begin with redis"),
            ({"bind_host": "0.0.0.0"}, "loopback"),
            ({"tls_host": "0.0.0.0"}, "TLS_CERTIFICATE"),
            ({"env": "Test 1"}, "pattern"),
            ({"poot_base_rate": "0.1"}, "multiple"),
            ({"cors_origins": "*"}, "one by one"),
            ({"session_slice": 3}, "less than or equal"),
            ({"rdp_first_port": 34000}, "RDP_LAST_PORT"),
            ({"trusted_proxies": "here"}, "IPv4"),
        ],
    )
    def test_wrong_ones(self, changes: dict[str, Any], expected: str) -> None:
        with pytest.raises(ValidationError, match=expected):
            Settings(**{"database_url": DATABASE} | changes)
