"""The observer: finds each difference, repairs when told to."""

from __future__ import annotations

import threading
import time

from labyard.core.observer import Difference, Finding, Observer, compare
from labyard.testing.waiting import wait_until


class TestCompare:
    def test_names_each_difference(self) -> None:
        mended: list[tuple[str, str]] = []
        findings = list(
            compare(
                "target",
                {"same": 1, "lost": 1, "changed": 1},
                {"same": 1, "changed": 2, "stray": 9},
                missing=lambda key: mended.append(("make", key)),
                orphan=lambda key: mended.append(("drop", key)),
                drift=lambda want, have: "" if want == have else f"{have}, not {want}",
            )
        )
        assert [(f.difference, f.thing, f.key, f.detail) for f in findings] == [
            (Difference.MISSING, "target", "lost", ""),
            (Difference.DRIFT, "target", "changed", "2, not 1"),
            (Difference.ORPHAN, "target", "stray", ""),
        ]
        for finding in findings:
            assert finding.repair
            finding.repair()
        assert mended == [("make", "lost"), ("make", "changed"), ("drop", "stray")]

    def test_finds_nothing_where_all_is_well(self) -> None:
        assert not list(compare("x", {"a": 1}, {"a": 2}, missing=print, orphan=print))


class TestObserver:
    def test_reports_without_repair(self) -> None:
        mended: list[str] = []
        finding = Finding(Difference.MISSING, "script", "a", repair=lambda: mended.append("a"))
        observer = Observer(lambda: [finding], 60)
        report = observer.check(repair=False)
        assert (report.findings, report.repaired, mended) == ([finding], [], [])
        assert observer.last is report

    def test_a_failed_repair_does_not_stop_the_others(self) -> None:
        def fail() -> None:
            raise OSError("disk full")

        bad = Finding(Difference.MISSING, "overlay", "a", repair=fail)
        good = Finding(Difference.ORPHAN, "overlay", "b", repair=lambda: None)
        known = Finding(Difference.DRIFT, "overlay", "c")
        report = Observer(lambda: [bad, good, known], 60).check(repair=True)
        assert report.repaired == [good]
        assert report.failed == [(bad, "disk full")]
        assert len(report.findings) == 3

    def test_looks_on_an_interval(self) -> None:
        looks: list[float] = []
        observer = Observer(lambda: looks.append(time.monotonic()) or [], 0.05)
        observer.start()
        wait_until(lambda: len(looks) >= 3, "three looks")
        observer.stop()
        count = len(looks)
        time.sleep(0.2)
        assert len(looks) == count

    def test_stops_without_waiting_for_the_interval(self) -> None:
        looks: list[int] = []
        observer = Observer(lambda: looks.append(1) or [], 3600)
        observer.start()
        wait_until(lambda: looks == [1], "the first look")
        observer.stop()
        assert observer._thread is not None and not observer._thread.is_alive()

    def test_goes_on_after_a_look_that_failed(self) -> None:
        looks: list[int] = []

        def look() -> list[Finding]:
            looks.append(1)
            if len(looks) == 1:
                raise OSError("the daemon is away")
            return []

        observer = Observer(look, 0.01)
        observer.start()
        wait_until(lambda: len(looks) > 2, "it looks again")
        observer.stop()

    def test_one_look_at_a_time(self) -> None:
        inside: list[int] = []
        most: list[int] = []

        def look() -> list[Finding]:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()
            return []

        observer = Observer(look, 60)
        threads = [threading.Thread(target=observer.check, args=(False,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 5
