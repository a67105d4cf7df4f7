"""The iPXE scripts to the letter, their validator, and the TFTP folder (contract sections 5.7, 7 and 8)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import ipxe
from labyard.netboot.adapters.tftp import MARKER, Scripts
from labyard.netboot.settings import Settings

IQN = "iqn.2025-01.lab.labyard:target-machine-1-0a1b2c3d"
MENU = """\
item retry Try again
item local Boot from local disk
item shell iPXE shell
item restart Reboot
choose --default retry --timeout 15000 sel || goto retry
goto ${sel}
:retry
sleep 5
goto attempt
:local
exit 0
:shell
shell
goto failed
:restart
reboot
"""
# Contract section 7, to the letter.
MACHINE = f"""\
#!ipxe
# Labyard netboot: machine 1, session session-1-0a1b2c3d
set event-url http://192.168.1.10:8000/api/v1/ipxe/script/TOKEN/events
echo Booting test-workstation
imgfetch --name ev --timeout 2000 ${{event-url}}/ipxe_load && imgfree ev || echo Event not sent
set initiator-iqn iqn.2025-01.lab.labyard:initiator-001122334455
set username s-0a1b2c3d
set password abcdefgh12345678
:attempt
sanboot iscsi:192.168.1.10::3260:1:{IQN} || goto failed
:failed
imgfetch --name ev --timeout 2000 ${{event-url}}/boot_failed && imgfree ev || echo Event not sent
menu Labyard: test-workstation did not boot
{MENU}"""
GENERIC = f"""\
#!ipxe
echo Welcome to Labyard netboot
:attempt
echo MAC ${{net0/mac}} address ${{net0/ip}}
chain --autofree tftp://${{next-server}}/machines/${{net0/mac:hexhyp}}.ipxe || goto failed
exit 0
:failed
menu Labyard: no session for this machine
{MENU}"""
SPEC = ipxe.ScriptSpec(
    machine_id=1,
    machine_name="test-workstation",
    session_id="session-1-0a1b2c3d",
    event_url="http://192.168.1.10:8000/api/v1/ipxe/script/TOKEN/events",
    initiator="iqn.2025-01.lab.labyard:initiator-001122334455",
    chap_user="s-0a1b2c3d",
    chap_secret="abcdefgh12345678",
    portal_ip="192.168.1.10",
    portal_port=3260,
    lun=1,
    iqn=IQN,
)


def codes(text: str) -> list[tuple[int, str]]:
    return [(error.line, error.code) for error in ipxe.validate(text)]


class TestText:
    def test_machine_script_is_the_contract_s(self) -> None:
        assert ipxe.generate_machine_script(SPEC) == MACHINE
        assert codes(MACHINE) == []

    def test_generic_script_is_the_contract_s(self) -> None:
        assert ipxe.generate_generic_script() == GENERIC
        assert codes(GENERIC) == []

    def test_the_lun_is_hexadecimal(self) -> None:
        assert f"iscsi:192.168.1.10::3260:ff:{IQN} " in ipxe.generate_machine_script(replace(SPEC, lun=255))

    @pytest.mark.parametrize("method", ["iscsi_root", "ram_root"])
    def test_other_ways_to_boot_are_good_scripts_too(self, method: str) -> None:
        spec = replace(SPEC, method=method, boot_files="tftp://192.168.1.10/boot/x", kernel_options="quiet")
        text = ipxe.generate_machine_script(spec)
        assert codes(text) == []
        assert ("sanhook" in text) is (method == "iscsi_root")


HEAD = "#!ipxe\n"
CHAIN = "chain tftp://x/machines/y.ipxe || exit\n"


class TestValidator:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", [(1, "no_shebang"), (1, "no_boot")]),
            ("\n#!ipxe\n" + CHAIN, [(1, "no_shebang")]),
            (HEAD + "# chain tftp://x/machines/y.ipxe || exit\n", [(1, "no_boot")]),
            (HEAD + CHAIN + "echo a\rb\n", [(3, "control_character")]),
            (HEAD + CHAIN + "echo a\x0bb\n", [(3, "control_character")]),
            (HEAD + CHAIN + "echo a\x85b\n", [(3, "control_character")]),
            (HEAD + CHAIN + "echo a && imgfetch b\n", [(3, "no_fallback")]),
            (HEAD + CHAIN + "imgfetch a || chain b\n", [(3, "no_fallback")]),
            (HEAD + CHAIN + "imgfetch a||exit\n", [(3, "no_fallback")]),
            (HEAD + CHAIN + "echo a || poweroff\n", [(3, "unknown_command")]),
            (HEAD + CHAIN + "console --picture x\nntp x\n", [(3, "unknown_command"), (4, "unknown_command")]),
            (HEAD + CHAIN + "echo no ntp console here\n", []),
            (HEAD + CHAIN + "goto gone\n", [(3, "no_label")]),
            (HEAD + CHAIN + "item --gap -- Ways\nitem --key a one One\nchoose sel || exit\ngoto ${sel}\n:one\n", []),
            (HEAD + CHAIN + "item -k a one One\nitem two Two\ngoto ${sel}\n:one\n", [(5, "no_label")]),
            (HEAD + CHAIN + "echo ${net0/mac\n", []),
            (HEAD + CHAIN + "echo ${uuid}\n", [(3, "foreign_variable")]),
            (HEAD + f"sanboot iscsi:192.168.1.999::3260:1:{IQN} || exit\n", [(2, "bad_san_uri")]),
            (HEAD + f"sanboot iscsi:192.168.1.10:::3260:1:{IQN} || exit\n", [(2, "bad_san_uri")]),
            (HEAD + f"sanboot iscsi:192.168.1.10::70000:1:{IQN} || exit\n", [(2, "bad_san_uri")]),
            (HEAD + "sanboot iscsi:192.168.1.10::3260:1:iqn.2025-13.lab:x || exit\n", [(2, "bad_iqn")]),
            (HEAD + f"sanboot iscsi:192.168.1.10::3260:1:{IQN}{'x' * 200} || exit\n", [(2, "bad_iqn")]),
        ],
    )
    def test_each_error_has_its_line(self, text: str, expected: list[tuple[int, str]]) -> None:
        assert codes(text) == expected


NAME = "machines/00-11-22-33-44-55.ipxe"
TEXT = f"#!ipxe\n{MARKER}machine 1\n"


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    made = Scripts(Settings(tftp_root=tmp_path / "tftp", service_manager="none"))
    made.prepare("#!ipxe\n")
    return made


class TestFolder:
    def test_comes_and_goes(self, scripts: Scripts, tmp_path: Path) -> None:
        path = tmp_path / "tftp" / NAME
        scripts.apply(NAME, TEXT)
        inode = path.stat().st_ino
        scripts.apply(NAME, TEXT)
        assert path.stat().st_ino == inode, "nothing is written when nothing is different"
        assert (path.read_text(), path.stat().st_mode & 0o777) == (TEXT, 0o644)
        assert [entry.name for entry in path.parent.iterdir()] == [path.name], "no temporary file is left"
        assert scripts.observed()[NAME].mac == "00:11:22:33:44:55"
        scripts.remove(NAME)
        scripts.remove(NAME)
        assert scripts.observed() == {} and scripts.read(NAME) is None

    def test_all_is_for_the_server_to_read(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            scripts = Scripts(Settings(tftp_root=tmp_path / "tftp", service_manager="none"))
            scripts.prepare("#!ipxe\n")
            scripts.apply(NAME, TEXT)
        finally:
            os.umask(before)
        modes = {path: (tmp_path / "tftp" / path).stat().st_mode & 0o777 for path in ("", "machines", "boot", NAME)}
        assert modes == {"": 0o755, "machines": 0o755, "boot": 0o755, NAME: 0o644}
        assert (tmp_path / "tftp/boot.ipxe").stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("name", ["../x.ipxe", "machines/x.ipxe", "machines/00:11:22:33:44:55.ipxe", ""])
    def test_other_names_are_refused(self, scripts: Scripts, name: str) -> None:
        for verb in (lambda: scripts.apply(name, TEXT), lambda: scripts.remove(name), lambda: scripts.read(name)):
            with pytest.raises(AdapterError, match="not the name"):
                verb()

    def test_a_link_a_folder_and_a_pipe_are_no_scripts(self, scripts: Scripts, tmp_path: Path) -> None:
        machines = tmp_path / "tftp/machines"
        (tmp_path / "victim").write_text(TEXT)
        (machines / "02-00-00-00-00-01.ipxe").symlink_to(tmp_path / "victim")
        (machines / "02-00-00-00-00-02.ipxe").mkdir()
        os.mkfifo(machines / "02-00-00-00-00-03.ipxe")
        assert scripts.observed() == {}
        for number in (1, 2, 3):
            name = f"machines/02-00-00-00-00-0{number}.ipxe"
            for verb in (lambda n=name: scripts.apply(n, TEXT), lambda n=name: scripts.read(n)):
                with pytest.raises(AdapterError):
                    verb()
        assert (tmp_path / "victim").read_text() == TEXT

    def test_a_root_that_is_gone(self, scripts: Scripts, tmp_path: Path) -> None:
        (tmp_path / "tftp").rename(tmp_path / "away")
        assert scripts.observed() == {} and scripts.read(NAME) is None
        scripts.remove(NAME)
        with pytest.raises(AdapterError, match="cannot write"):
            scripts.apply(NAME, TEXT)
        status = scripts.status()
        assert (status.tftp_root_exists, status.machine_scripts_count, status.boot_files_count) == (False, 0, 0)
        assert "is not there" in (status.error or "")

    def test_a_root_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "tftp").write_text("in the way")
        with pytest.raises(AdapterError, match="cannot prepare"):
            Scripts(Settings(tftp_root=tmp_path / "tftp")).prepare("")

    def test_a_full_disk_leaves_no_half_of_a_script(
        self, scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "rename", full)
        with pytest.raises(AdapterError, match="No space left"):
            scripts.apply(NAME, TEXT)
        assert list((tmp_path / "tftp/machines").iterdir()) == []

    def test_boot_files(self, scripts: Scripts, tmp_path: Path) -> None:
        boot = tmp_path / "tftp/boot"
        (boot / "image").mkdir()
        (boot / "image/cmdline").write_text("console=ttyS0\n quiet\n")
        assert scripts.read_boot_file("image/cmdline") == "console=ttyS0 quiet"
        assert scripts.read_boot_file("image/gone") == "" and scripts.boot_file("image/cmdline")
        for path in ("image", "../machines", "image//cmdline", "./image/cmdline", "", "a\0b"):
            assert not scripts.boot_file(path), path


@pytest.mark.parametrize("given", ["10.0.0.1", "10.0.0.9-10.0.0.1", "a-b", "1-2-3"])
def test_a_bad_dhcp_range_is_refused_at_once(given: str) -> None:
    with pytest.raises(ValueError, match="DHCP_RANGE"):
        Settings(dhcp_backend="isc", dhcp_range=given)
