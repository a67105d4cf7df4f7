"""What the benchmarks decide and read, without a lab."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from labyard.bench import boot, boot_clock, desktops_processes, dhcp, iscsi, lab, report
from labyard.bench import command as programs
from labyard.bench.__main__ import MEASURES, app
from labyard.bench.bench import Bench, MeasureError
from labyard.bench.figure import TARGETS, Figure, Target, p95, select
from labyard.testing.waiting import PATIENCE

LOWER = Target("family.some_s", "s", 10, "lower", "")
HIGHER = Target("family.rate", "1/s", 10, "higher", "")
REPORTED = Target("family.reported", "MB/s", None, "higher", "")

PERFDHCP = """\
***Rate statistics***
Rate: 1714.1 4-way exchanges/second, expected rate: 2000

***Statistics for: DISCOVER-OFFER***
sent packets: 11999
received packets: 11996
drops: 3
drops ratio: 0.02 %

***Statistics for: REQUEST-ACK***
sent packets: 11996
received packets: 11995
drops: 1
drops ratio: 0.01 %
"""


class TestFigures:
    @pytest.mark.parametrize(
        ("target", "value", "ok"),
        [
            (LOWER, 10, True),
            (LOWER, 10.01, False),
            (HIGHER, 10, True),
            (HIGHER, 9.99, False),
            (REPORTED, 0.1, True),
            (REPORTED, None, False),
        ],
    )
    def test_ok(self, target: Target, value: float | None, ok: bool) -> None:
        assert Figure(target, value).ok is ok

    def test_json(self) -> None:
        assert Figure(LOWER, 3.14159).as_dict() == {
            "name": "family.some_s",
            "value": 3.142,
            "unit": "s",
            "target": 10,
            "better": "lower",
            "ok": True,
        }
        assert Figure(LOWER, None, "no lab").as_dict()["reason"] == "no lab"

    def test_every_target_has_a_measurement(self) -> None:
        assert set(MEASURES) == {target.name for target in TARGETS}


class TestSelect:
    def test_all_but_those_on_request(self) -> None:
        assert [target for target in TARGETS if target not in select("")] == [TARGETS[0]]
        assert TARGETS[0].name == "lab.cold_s"

    @pytest.mark.parametrize(
        ("only", "names"),
        [
            ("dhcp", ["dhcp.leases_per_s"]),
            ("lab.cold", ["lab.cold_s"]),
            ("lab.noop, lab.speedup", ["lab.noop_s", "lab.speedup_vs_stock"]),
            ("boot.storm_8_s", ["boot.storm_8_s"]),
            ("lab", ["lab.warm_s", "lab.noop_s", "lab.speedup_vs_stock"]),
        ],
    )
    def test_parts(self, only: str, names: list[str]) -> None:
        assert [target.name for target in select(only)] == names

    @pytest.mark.parametrize("only", ["boo", "lab.no", "dhcp,nothing"])
    def test_unknown(self, only: str) -> None:
        with pytest.raises(ValueError, match="unknown figure"):
            select(only)


class TestReport:
    def test_earlier_figures_are_kept_and_marked(self, tmp_path: Path) -> None:
        path = tmp_path / "build" / "bench.json"
        report.write(path, {"date": "then"}, [Figure(LOWER, 1), Figure(HIGHER, 20)], [])
        report.write(path, {"date": "now"}, [Figure(LOWER, 2)], report.earlier_figures(path))
        figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
        assert (figures["family.some_s"]["value"], "measured" in figures["family.some_s"]) == (2, False)
        assert (figures["family.rate"]["value"], figures["family.rate"]["measured"]) == (20, "then")
        # The mark stays when a third run keeps it once more.
        assert "then" in [figure["measured"] for figure in report.earlier_figures(path)]

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"environment": {}, "figures": 1}'])
    def test_an_unusable_file_has_no_figures(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "bench.json"
        path.write_text(content)
        assert report.earlier_figures(path) == []


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (10, 10), (19, 19), (20, 19), (50, 48), (100, 95), (2000, 1900)])
def test_p95_is_the_nearest_rank(count: int, rank: int) -> None:
    assert p95(range(count, 0, -1)) == rank


class TestCommand:
    def test_failure_shows_the_end(self, tmp_path: Path) -> None:
        with pytest.raises(MeasureError, match=r"exited with 3:\nlast words"):
            programs.run(
                ["sh", "-c", "echo last words; exit 3"], folder=tmp_path, environment=os.environ, timeout=PATIENCE
            )

    def test_gist(self) -> None:
        noise = [f"line {number}" for number in range(40)]
        assert programs.gist("\n".join(noise)).splitlines() == noise[-12:]
        failed = programs.gist("\n".join([*noise, "\x1b[31mfatal: [boot1]: FAILED!\x1b[0m", *noise]))
        assert failed.startswith("fatal: [boot1]: FAILED!\nline 0")

    def test_timeout_ends_what_was_started(self, tmp_path: Path) -> None:
        began = time.monotonic()
        with pytest.raises(MeasureError, match=r"within 0\.2 s"):
            programs.run(["sh", "-c", "sleep 30 & sleep 30"], folder=tmp_path, environment=os.environ, timeout=0.2)
        assert time.monotonic() - began < 30  # which they sleep when they are not ended

    def test_clean_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        programs_folder = str(Path(sys.prefix) / "bin")
        monkeypatch.setenv("PATH", f"/usr/bin:{programs_folder}")
        monkeypatch.setenv("ANSIBLE_STRATEGY", "mitogen_linear")
        monkeypatch.setenv("MAKEFLAGS", "j")
        assert programs.clean_environment(venv=False)["PATH"] == "/usr/bin"
        kept = programs.clean_environment(venv=True)
        assert kept["PATH"] == f"{programs_folder}:/usr/bin"
        assert not {"ANSIBLE_STRATEGY", "MAKEFLAGS"} & kept.keys()


class TestReading:
    def test_recap(self) -> None:
        said = (
            "PLAY RECAP ****\nboot1   : ok=9    changed=2    unreachable=0\nlocalhost : ok=1 changed=0 unreachable=0\n"
        )
        assert lab.changes(said) == {"boot1": 2, "localhost": 0}
        with pytest.raises(MeasureError, match="no recap"):
            lab.changes("ERROR! no playbook")

    def test_changed_tasks(self) -> None:
        said = (
            "TASK [dhcp : Install] ***\nok: [a]\n\nTASK [dhcp : Configure] ***\nok: [a]\nchanged: [b]\nPLAY RECAP ***\n"
        )
        assert lab.changed_tasks(said) == "dhcp : Configure"
        assert lab.changed_tasks("") == ""

    def test_another_inventory_is_not_destroyed(self, tmp_path: Path) -> None:
        with pytest.raises(MeasureError, match="leave --inventory out"):
            lab.warm(Bench(tmp_path, tmp_path / "inventories/remote", print))

    def test_perfdhcp(self) -> None:
        assert dhcp.parse(PERFDHCP) == dhcp.Load(begun=11999, completed=11995, drops=4)
        with pytest.raises(MeasureError, match="cannot bind"):
            dhcp.parse("cannot bind")

    def test_pool_size(self) -> None:
        assert dhcp.pool_size(["10.0.0.10 - 10.0.0.19", "10.0.1.0-10.0.1.255"]) == 266

    def test_target_number(self) -> None:
        assert iscsi.next_tid("") == 1
        assert iscsi.next_tid("Target 1: iqn.a\n    LUN: 7\nTarget 8: iqn.b\n") == 9


class TestBootClock:
    @pytest.fixture
    def virsh(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A virsh that writes the mark on m1's console at once, and leaves the others' silent."""
        program = tmp_path / "virsh"
        program.write_text(
            f'#!/bin/sh\n[ "$2" = start ] && [ "$3" = m1 ] && echo "{boot.MARK} uptime=1" > {tmp_path}/m1.log\nexit 0\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return tmp_path

    def test_times_to_the_mark(
        self, virsh: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["boot_clock", boot.MARK, str(virsh), "5", "m1"])
        boot_clock.main()
        assert 0 < json.loads(capsys.readouterr().out)["m1"] < 5

    def test_an_earlier_boot_does_not_count(self, virsh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (virsh / "m2.log").write_text(boot.MARK)
        monkeypatch.setattr(sys, "argv", ["boot_clock", boot.MARK, str(virsh), "0.3", "m1", "m2"])
        with pytest.raises(SystemExit, match=r"not in userland after 0\.3 s: m2"):
            boot_clock.main()


class TestDesktops:
    def test_what_a_test_records_is_the_figure(self, tmp_path: Path) -> None:
        (tmp_path / "measure.py").write_text(
            "import pytest\n"
            "def test_it(record_property):\n"
            "    record_property('ms', 4.5)\n"
            "    record_property('say', 'two of them')\n"
            "def test_not_here():\n"
            "    pytest.skip('no display')\n"
        )
        said: list[str] = []
        bench = Bench(tmp_path, tmp_path, said.append)
        assert desktops_processes.recorded(bench, "measure.py::test_it") == {"ms": 4.5}
        assert said == ["two of them"]
        with pytest.raises(MeasureError, match="no display"):
            desktops_processes.recorded(bench, "measure.py::test_not_here")


class TestCommandLine:
    def test_unknown_figure(self) -> None:
        result = CliRunner().invoke(app, ["--only", "nothing"])
        assert result.exit_code == 2

    def test_a_failed_measurement_is_loud(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "site.yml").touch()
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["--only", "dhcp", "--inventory", "nowhere"])
        assert result.exit_code == 1
        assert "there is no inventory at nowhere" in result.stdout
        (figure,) = json.loads((tmp_path / "build/bench.json").read_text())["figures"]
        assert (figure["value"], figure["ok"]) == (None, False)
        assert "no inventory" in figure["reason"]
