"""An Ansible inventory, read with Ansible itself, so that variables mean here what they mean in a playbook."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager


@cache
def _load_plugins() -> None:
    """Make the filters of installed collections known; Ansible wants this once in a process."""
    init_plugin_loader([])


class InventoryError(Exception):
    """The inventory cannot be used; the message names what to mend."""


class Inventory:
    """Hosts, groups and templated variables of one inventory.

    Raises InventoryError when the file is missing or holds no host.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        source = path / "hosts.yml" if path.is_dir() else path
        if not source.exists():
            raise InventoryError(f"there is no inventory at {source}; inventories/local is the one that comes along")
        _load_plugins()
        self.path = source
        self._loader = DataLoader()
        self._manager = InventoryManager(loader=self._loader, sources=[str(source)])
        self._variables = VariableManager(loader=self._loader, inventory=self._manager)
        self._hostvars = HostVars(self._manager, self._variables, self._loader)
        self._defaults: dict[str, Any] = {}
        if not self._manager.get_hosts():
            raise InventoryError(f"{source} names no host")

    def groups(self) -> list[str]:
        """Names of the groups that have a host."""
        named = set(self._manager.groups) - {"all", "ungrouped"}
        return sorted(name for name in named if self._manager.groups[name].get_hosts())

    def hosts(self, group: str = "all") -> list[str]:
        """Names of the hosts of a group, in the inventory's order.

        InventoryError for a group that does not exist.
        """
        if group not in self._manager.groups:
            raise InventoryError(f"unknown host group {group!r}; {self.path} has: {', '.join(self.groups())}")
        return [host.name for host in self._manager.groups[group].get_hosts()]

    def add_role_defaults(self, roles: Path) -> None:
        """Let `value` fall back on the defaults of the roles in a folder, as a playbook does."""
        for defaults in sorted(roles.glob("*/defaults/main.yml")):
            self._defaults |= self._loader.load_from_file(str(defaults)) or {}

    def value(self, host: str, name: str, default: Any = None) -> Any:
        """A variable of a host, templated as in a playbook."""
        found = self._manager.get_host(host)
        if found is None:
            raise InventoryError(f"unknown host {host!r}; {self.path} has: {', '.join(self.hosts())}")
        variables = self._defaults | self._variables.get_vars(host=found) | {"hostvars": self._hostvars}
        if name not in variables:
            return default
        return Templar(loader=self._loader, variables=variables).template(variables[name])
