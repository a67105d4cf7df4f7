"""How services are installed, and how roles and the netboot service share one tgt: the parts that need no host."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from labyard.netboot.adapters.ipxe import generate_generic_script
from labyard.netboot.settings import Settings
from labyard.vms.adapters.domain_xml import NAMESPACE
from labyard.vms.settings import Settings as VmsSettings

ROOT = Path(__file__).parents[2]
PREFIX = "iqn.2025-01.lab.labyard"
SESSION = f"{PREFIX}:target-machine-1-0a1b2c3d"
NOT_SETTINGS = {"netboot_state", "netboot_packages", "netboot_after", "netboot_api_host"}


class Exit(Exception):
    """What exit_json or fail_json ends a module with."""


def fake_module(params: dict[str, Any], check_mode: bool = False, run_command: Any = None, tmpdir: Path = ROOT) -> Any:
    """An AnsibleModule that ends with Exit."""

    def end(**answer: Any) -> None:
        raise Exit(answer)

    return lambda **_: SimpleNamespace(
        params=params, check_mode=check_mode, run_command=run_command, tmpdir=tmpdir, exit_json=end, fail_json=end
    )


class FakeTgt:
    """tgtadm, as far as the module uses it. `stolen` makes others take as many target numbers first."""

    def __init__(self, stolen: int = 0) -> None:
        self.targets: dict[int, dict[str, Any]] = {}
        self.accounts: dict[str, str] = {}
        self.stolen = stolen

    def add(self, iqn: str, backing: str, user: str, secret: str, acls: list[str]) -> None:
        tid = max(self.targets, default=0) + 1
        self.targets[tid] = {"iqn": iqn, "backing": backing, "accounts": [user], "acls": acls}
        self.accounts[user] = secret

    def run(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        words = [word for word in command if word not in ("tgtadm", "--lld", "iscsi", "--force")]
        given = dict(zip(words[::2], words[1::2], strict=True))
        tid = int(given.get("--tid", 0))
        match given["--mode"], given["--op"]:
            case "target", "show":
                return 0, "".join(self.shown(tid) for tid in self.targets), ""
            case "account", "show":
                return 0, "Account list:\n" + "".join(f"    {user}\n" for user in self.accounts), ""
            case "target", "new":
                if self.stolen:
                    self.stolen -= 1
                    self.add(f"{PREFIX}:target-machine-9-0000000{self.stolen}", "/x", "s-00000000", "x", [])
                    return 22, "", "tgtadm: this target already exists"
                self.targets[tid] = {"iqn": given["--targetname"], "backing": "", "accounts": [], "acls": []}
            case "logicalunit", "new":
                self.targets[tid]["backing"] = given["--backing-store"]
            case "account", "bind":
                self.targets[tid]["accounts"].append(given["--user"])
            case "target", "bind":
                self.targets[tid]["acls"].append(given.get("--initiator-address") or given["--initiator-name"])
            case "target", "delete":
                del self.targets[tid]
            case "account", "new":
                self.accounts[given["--user"]] = given["--password"]
            case "account", "delete":
                del self.accounts[given["--user"]]
            case unknown:
                raise AssertionError(unknown)
        return 0, "", ""

    def shown(self, tid: int) -> str:
        target = self.targets[tid]
        lists = [f"    {kind} information:\n" + "".join(f"        {entry}\n" for entry in target[key])
                 for kind, key in (("Account", "accounts"), ("ACL", "acls"))]  # fmt: skip
        disk = f"    LUN information:\n        LUN: 1\n            Backing store path: {target['backing']}\n"
        return f"Target {tid}: {target['iqn']}\n{disk}{''.join(lists)}"


@pytest.fixture
def converge(load_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs tgt_targets for targets by short name against a FakeTgt, and returns its answer."""
    module = load_module("tgt_targets")

    def run(tgt: FakeTgt, *names: str, secret: str = "secretsecret") -> dict[str, Any]:
        targets = [
            {
                "iqn": f"{PREFIX}:{name}",
                "backing": f"/srv/{name}",
                "initiator": f"{PREFIX}:i",
                "chap_user": "labyard",
                "chap_secret": secret,
            }
            for name in names
        ]

        params = {"config": str(tmp_path / "labyard.conf"), "targets": targets, "renew": []}
        monkeypatch.setattr(module, "AnsibleModule", fake_module(params, run_command=tgt.run))
        with pytest.raises(Exit) as ended:
            module.main()
        answer: dict[str, Any] = ended.value.args[0]
        return answer

    return run


def a_session(tgt: FakeTgt) -> dict[str, Any]:
    acls = ["255.255.255.255", f"{PREFIX}:initiator-525400770001"]
    tgt.add(SESSION, "/overlays/machine-1-0a1b2c3d.raw", "s-0a1b2c3d", "of this session", acls)
    return next(dict(target) for target in tgt.targets.values() if target["iqn"] == SESSION)


def test_tgt_targets_leaves_a_session_alone(converge: Any) -> None:
    tgt = FakeTgt()
    assert converge(tgt, "a", "b")["set"] == [f"{PREFIX}:a", f"{PREFIX}:b"]
    session = a_session(tgt)
    number = max(tgt.targets)
    assert converge(tgt, "a", "b")["changed"] is False
    assert converge(tgt, "b", "c", secret="anothersecret")["removed"] == [f"{PREFIX}:a"]
    assert converge(tgt)["removed"] == [f"{PREFIX}:b", f"{PREFIX}:c"]
    assert tgt.targets == {number: session}
    assert tgt.accounts["s-0a1b2c3d"] == "of this session"


def test_tgt_targets_gives_way_when_a_session_takes_its_number(converge: Any) -> None:
    tgt = FakeTgt(stolen=3)
    assert converge(tgt, "a")["set"] == [f"{PREFIX}:a"]
    made = [target for target in tgt.targets.values() if target["iqn"] == f"{PREFIX}:a"]
    assert len(tgt.targets) == 4 and [target["backing"] for target in made] == ["/srv/a"]


def test_bake_tag_follows_the_roles_that_an_install_step_includes(load_module: Any, tmp_path: Path) -> None:
    tag = load_module("bake_plan").bake_tag
    for role in ("netboot", "labyard_service"):
        (tmp_path / role / "tasks").mkdir(parents=True)
    included = "- name: x\n  ansible.builtin.include_role:\n    name: labyard_service\n    tasks_from: install\n"
    (tmp_path / "netboot/tasks/install.yml").write_text(included)
    first = tag(str(tmp_path), "base", ["netboot"])
    (tmp_path / "labyard_service/files").mkdir()
    (tmp_path / "labyard_service/files/requirements-service.txt").write_text("fastapi==1")
    assert tag(str(tmp_path), "base", ["netboot"]) != first


def test_wheel_digest_follows_names_and_contents_and_not_caches(load_module: Any, tmp_path: Path) -> None:
    digest = load_module("service_wheel").digest_of
    (tmp_path / "src/labyard/__pycache__").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "src/labyard/a.py").write_text("1")
    first = digest(str(tmp_path))
    (tmp_path / "src/labyard/__pycache__/a.pyc").write_text("x")
    assert digest(str(tmp_path)) == first
    (tmp_path / "src/labyard/a.py").rename(tmp_path / "src/labyard/b.py")
    renamed = digest(str(tmp_path))
    (tmp_path / "src/labyard/b.py").write_text("2")
    assert len({first, renamed, digest(str(tmp_path))}) == 3


@pytest.fixture
def install(load_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs service_venv without a uv; returns whether it changed something, and options of the environment it made."""
    module = load_module("service_venv")

    def run(
        requirements: str = "fastapi==1", site_packages: bool = False, check_mode: bool = False
    ) -> tuple[bool, list[str]]:
        made: list[str] = []

        def run_command(command: list[str], **_: Any) -> tuple[int, str, str]:
            if command[1] == "venv":
                Path(command[-1]).mkdir()
                made.extend(option for option in command if option.startswith("--system"))
            return 0, "", ""

        params = dict.fromkeys(("uv_requirements", "wheel", "digest")) | {
            "path": str(tmp_path / "vms"),
            "uv": str(tmp_path / "uv"),
            "requirements": requirements,
            "site_packages": site_packages,
            "python": "/usr/bin/python3",
            "state": "present",
        }
        monkeypatch.setattr(module, "AnsibleModule", fake_module(params, check_mode, run_command, tmp_path))
        with pytest.raises(Exit) as ended:
            module.main()
        return ended.value.args[0]["changed"], made

    return run


def test_service_venv_is_made_anew_when_it_shall_see_the_distributions_packages_or_no_longer(install: Any) -> None:
    assert install() == (True, [])
    assert install() == (False, [])
    assert install(site_packages=True, check_mode=True) == (True, [])
    assert install(site_packages=True) == (True, ["--system-site-packages"])
    assert install(site_packages=True) == (False, [])
    assert install() == (True, [])


class FakeLibvirtError(Exception):
    def get_error_code(self) -> int:
        return 80


class FakeDomain:
    def __init__(self, name: str, mark: str = "") -> None:
        self.called, self.mark, self.is_there = name, mark, True

    def name(self) -> str:
        return self.called

    def metadata(self, _: int, namespace: str) -> str:
        if namespace != self.mark:
            raise FakeLibvirtError
        return "<vm/>"

    def isActive(self) -> bool:
        return self.is_there

    def isPersistent(self) -> bool:
        return False

    def destroy(self) -> None:
        self.is_there = False


class FakeNetwork(FakeDomain):
    def XMLDesc(self) -> str:
        return f"<network><bridge name='{self.mark}'/></network>"


@pytest.fixture
def purge(collection: None, load_module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs libvirt_purge for the prefix `labyard-` and a network, and returns what it says it removed."""
    module = load_module("libvirt_purge")

    def run(domains: list[FakeDomain], networks: list[FakeNetwork], check_mode: bool = False) -> list[str]:
        connection = SimpleNamespace(listAllDomains=lambda: domains, listAllNetworks=lambda: networks)
        libvirt = SimpleNamespace(
            libvirtError=FakeLibvirtError,
            VIR_ERR_NO_DOMAIN_METADATA=80,
            VIR_DOMAIN_METADATA_ELEMENT=2,
            registerErrorHandler=lambda *_: None,
            open=lambda _: connection,
        )
        for where in (module, sys.modules[module.connected.__module__]):
            monkeypatch.setattr(where, "libvirt", libvirt)
        params = {"domain_prefix": "labyard-", "network": "labyard-vman", "bridge": "br-vman", "uri": "test:///"}
        monkeypatch.setattr(module, "AnsibleModule", fake_module(params, check_mode))
        with pytest.raises(Exit) as ended:
            module.main()
        removed: list[str] = ended.value.args[0]["removed"]
        return removed

    return run


def test_libvirt_purge_removes_what_the_service_made_and_nothing_of_others(purge: Any) -> None:
    mark = "urn:labyard:vms:1"
    ours = [FakeDomain("labyard-web", mark)]
    others = [
        FakeDomain("labyard-theirs"),
        FakeDomain("second-lab-web", mark),
        FakeDomain("m1", "https://labyard.example/1"),
    ]
    networks = [FakeNetwork("default", "virbr0"), FakeNetwork("labyard-vman", "br-vman")]
    assert purge(ours + others, networks, check_mode=True) == ["labyard-vman", "labyard-web"]
    assert all(thing.is_there for thing in ours + others + networks)
    assert purge(ours + others, networks) == ["labyard-vman", "labyard-web"]
    assert [thing.called for thing in ours + others + networks if thing.is_there] == [
        "labyard-theirs",
        "second-lab-web",
        "m1",
        "default",
    ]


def test_libvirt_purge_leaves_a_network_of_somebody_else_with_that_name(purge: Any) -> None:
    network = FakeNetwork("labyard-vman", "virbr7")
    assert purge([], [network]) == []
    assert network.is_there


@pytest.mark.parametrize("name", ["libvirt_domains", "libvirt_pool", "libvirt_purge"])
def test_without_libvirt_the_way_out_is_told(
    collection: None, load_module: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module = load_module(name)
    monkeypatch.setattr(sys.modules[module.connected.__module__], "libvirt", None)
    params = dict.fromkeys(("uri", "domain_prefix", "network", "bridge", "set", "domains", "name", "path", "state"), "")
    monkeypatch.setattr(module, "AnsibleModule", fake_module(params))
    with pytest.raises(Exit, match="python3-libvirt is not installed on this host"):
        module.main()


def test_file_set_keeps_a_file_of_somebody_else(
    load_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = load_module("file_set")
    (tmp_path / "theirs").write_text("#!ipxe\n# Labyard netboot: machine 1\n")
    files = dict.fromkeys(("theirs", "ours"), "#!ipxe\n# Ours\n")
    params = {"folder": str(tmp_path), "marker": "# Ours", "files": files, "mode": "0644"}
    monkeypatch.setattr(module, "AnsibleModule", fake_module(params, check_mode=True))
    with pytest.raises(Exit) as ended:
        module.main()
    assert (ended.value.args[0]["written"], ended.value.args[0]["kept"]) == (["ours"], ["theirs"])


def test_hosts_get_what_the_control_machine_has_locked() -> None:
    pattern = r"^([a-z0-9-]+)==(\S+)"
    lock = set(re.findall(pattern, (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    text = (ROOT / "roles/labyard_service/files/requirements-service.txt").read_text()
    hosts = set(re.findall(pattern, text, re.MULTILINE))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["service"]
    names = {re.split(r"[^a-z0-9-]", requirement.lower())[0] for requirement in wanted}
    assert names <= {name for name, _ in hosts}, "run: make lock"
    assert hosts <= lock, "run: make lock"


def test_the_role_netboot_has_every_setting_and_the_services_defaults() -> None:
    defaults = yaml.safe_load((ROOT / "roles/netboot/defaults/main.yml").read_text())
    given = {name.removeprefix("netboot_"): value for name, value in defaults.items() if name not in NOT_SETTINGS}
    assert set(given) == set(Settings.model_fields)
    environment = given.pop("environment")
    assert environment == "production"
    filled = {name: value for name, value in given.items() if value != ""}
    plain = Settings(_env_file=None, admin_password="x", secret_key="x")
    assert Settings(_env_file=None, admin_password="x", secret_key="x", **filled) == plain
    handed = (ROOT / "roles/netboot/tasks/configure.yml").read_text()
    passed = dict(re.findall(r'LABYARD_NETBOOT_(\w+): "\{\{ (\w+) \}\}"', handed))
    assert passed == {name.upper(): f"netboot_{name}" for name in Settings.model_fields}


def test_the_role_vms_hands_over_settings_and_the_services_defaults() -> None:
    not_settings = {"vms_state", "vms_packages", "vms_after", "vms_api_host", "vms_storage_group"}
    defaults = yaml.safe_load((ROOT / "roles/vms/defaults/main.yml").read_text())
    names = {name: name.removeprefix("vms_") for name in defaults.keys() - not_settings}
    names |= {"vms_http_host": "bind_host", "vms_http_port": "bind_port"}
    handed = (ROOT / "roles/vms/tasks/configure.yml").read_text()
    passed = dict(re.findall(r'VMAN_(\w+): "\{\{ (\w+)[ |a-z]* \}\}"', handed))
    assert {variable: name.lower() for name, variable in passed.items()} == names
    # What differs is what the contract wants of a role: the lab's address, and no guessing at KVM.
    on_purpose = {"bind_host": "0.0.0.0", "domain_type": "qemu"}
    filled = {name: defaults[variable] for variable, name in names.items() if defaults[variable] != ""}
    assert VmsSettings(_env_file=None, **filled) == VmsSettings(_env_file=None, **on_purpose)


def test_libvirt_purge_knows_the_services_mark(collection: None, load_module: Any) -> None:
    assert load_module("libvirt_purge").NAMESPACE == NAMESPACE


def test_the_role_ipxe_writes_the_services_generic_script() -> None:
    assert (ROOT / "roles/ipxe/templates/boot.ipxe.j2").read_text() == generate_generic_script()
