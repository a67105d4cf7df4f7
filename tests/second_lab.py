"""Labs that tests build from a copy of the local inventory, beside the lab that is up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
LAB_FILE = "group_vars/all/lab.yml"


@dataclass(frozen=True)
class Inventory:
    """A copy of the local inventory that a test may spoil."""

    folder: Path

    @classmethod
    def copied_to(cls, folder: Path) -> Inventory:
        """The local inventory, in a folder that is not there yet."""
        return cls(Path(shutil.copytree(ROOT / "inventories/local", folder)))

    @property
    def hosts(self) -> Path:
        return self.folder / "hosts.yml"

    def edit(self, old: str, new: str, file: str = LAB_FILE) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{file} no longer has {old!r}"
        path.write_text(text.replace(old, new, 1))

    def set_apart(self, name: str, octet: int, groups: set[str], machines: list[dict[str, Any]]) -> None:
        """Make it a lab of these groups to be up beside the first: 10.<octet>.0.0/24 and 10.<octet + 1>.0.0/16."""
        texts = {}
        for path in (self.hosts, self.folder / LAB_FILE):
            text = path.read_text()
            for old, new in (
                ("lab_name: labyard", f"lab_name: labyard-{name}"),
                (": labyard-", f": labyard-{name}-"),
                ("bridge: ly-", f"bridge: ly-{octet}-"),
                ("10.76.", f"10.{octet}."),
                ("10.77.", f"10.{octet + 1}."),
            ):
                text = text.replace(old, new)
            texts[path] = yaml.safe_load(text)
        texts[self.folder / LAB_FILE]["lab_machines"] = machines
        known = texts[self.hosts]["all"]["children"]
        for group in known["lab_containers"]["children"].keys() - groups:
            del known[group], known["lab_containers"]["children"][group]
        for path, content in texts.items():
            path.write_text(yaml.safe_dump(content))

    def command(self, playbook: str, *arguments: str) -> list[str]:
        return ["ansible-playbook", "-i", str(self.hosts), playbook, *arguments]

    def run(
        self, playbook: str, *arguments: str, seconds: float = 240, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook to its end, as `make` does; stdout and stderr are one text."""
        return subprocess.run(
            ["scripts/with-mitogen", os.environ.get("LABYARD_MITOGEN", "1"), *self.command(playbook, *arguments)],
            cwd=ROOT,
            env=os.environ
            | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "COLUMNS": "500"}
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
