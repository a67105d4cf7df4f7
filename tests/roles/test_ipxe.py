"""What the role ipxe promises."""

from __future__ import annotations

import re

from conftest import assert_gone

from labyard.lab import LabHost
from labyard.netboot.adapters.ipxe import generate_generic_script


def problems(script: str) -> list[str]:
    """Mistakes that would end a script or strand a machine: see the netboot contract, section 7."""
    found = [] if script.startswith("#!ipxe\n") else ["does not start with #!ipxe"]
    labels = set(re.findall(r"^:(\w+)", script, re.MULTILINE))
    items = set(re.findall(r"^item (\w+)", script, re.MULTILINE))
    jumps = set(re.findall(r"goto (\w+)", script))
    found += [f"goto {name} leads nowhere" for name in sorted((jumps | items) - labels)]
    found += [
        f"{line!r} would end the script when it fails"
        for line in script.splitlines()
        if line.split(" ")[0] in {"sanboot", "chain", "imgfetch", "choose"} and "||" not in line
    ]
    return found


class TestApplied:
    def test_boot_programs_are_the_packages(self, host: LabHost) -> None:
        for name in host.value("ipxe_boot_programs"):
            host.check(f"cmp /usr/lib/ipxe/{name} {host.value('ipxe_root')}/boot/{name}")

    def test_generic_script_chains_and_falls_back_to_a_menu(self, host: LabHost) -> None:
        script = host.check(f"cat {host.value('ipxe_root')}/boot.ipxe")
        assert script == generate_generic_script()  # the netboot service writes the same file, byte for byte
        assert problems(script) == []
        assert "chain --autofree tftp://${next-server}/machines/${net0/mac:hexhyp}.ipxe" in script
        assert {"retry", "local", "shell", "restart"} == set(re.findall(r"^item (\w+)", script, re.MULTILINE))

    def test_each_machine_has_its_script(self, host: LabHost) -> None:
        folder = f"{host.value('ipxe_root')}/machines"
        expected = {}
        for machine in host.value("ipxe_machines"):
            name = machine["mac"].lower().replace(":", "-") + ".ipxe"
            expected[name] = f"iscsi:{host.value('ipxe_portal')}::{host.value('ipxe_portal_port')}:1:{machine['iqn']}"
        # Sessions of the netboot service have scripts of their own there.
        ours = host.run(f"grep -lxF '# Written by the role ipxe' {folder}/*").stdout.split()
        assert {path.rpartition("/")[2] for path in ours} == set(expected)
        for name, uri in expected.items():
            script = host.check(f"cat {folder}/{name}")
            assert problems(script) == []
            assert f"sanboot {uri} || goto failed" in script


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        root = host.value("ipxe_root")
        assert_gone(host, "ipxe", f"{root}/boot.ipxe", f"{root}/boot/undionly.kpxe")
        assert host.check(f"ls {root}/machines") == ""
