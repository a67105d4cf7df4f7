"""Values of an inventory: what is checked is what the service takes, and all of it is handed to the check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from labyard.desktops.settings import QUANTUM, Settings

ROOT = Path(__file__).parents[3]
OF_OTHER_NAME = {"http_host": "bind_host", "http_port": "bind_port", "environment": "env"}


@pytest.fixture
def values(collection: None) -> Any:
    from ansible_collections.labyard.lab.plugins.module_utils import desktops_values

    return desktops_values


def bounds(name: str) -> dict[str, float]:
    """Of one setting of the service: ge, gt, le."""
    limits = Settings.model_fields[name].metadata
    return {
        sign: float(getattr(limit, sign)) for limit in limits for sign in ("ge", "gt", "le") if hasattr(limit, sign)
    }


def test_ranges_are_the_services(values: Any) -> None:
    for variable, (least, most) in {**values.WHOLE, **values.NUMBERS}.items():
        name = variable.removeprefix("desktops_")
        if name not in ("http_port", "tls_port"):  # where the service itself may take any port that is free
            assert bounds(name) == {"ge": least} | ({"le": most} if most != values.ANY else {}), variable
    for variable, most in values.POSITIVE.items():
        upper = {"le": most} if most != values.ANY else {}
        assert bounds(variable.removeprefix("desktops_")) == {"gt": 0} | upper, variable
    assert values.QUANTUM == QUANTUM


def test_the_role_hands_over_every_setting_that_is_checked(values: Any) -> None:
    written = (ROOT / "roles/desktops/tasks/configure.yml").read_text()
    for variable in values.CHECKED - {"desktops_tls_certificate", "desktops_tls_key"}:
        name = variable.removeprefix("desktops_")
        setting = OF_OTHER_NAME.get(name, name)
        assert setting in Settings.model_fields
        variable_of_it = "LABYARD_ENV" if setting == "env" else f"DESKTOPS_{setting.upper()}"
        assert f'{variable_of_it}: "{{{{ {variable}' in written


def test_the_preflight_hands_over_what_is_checked(values: Any) -> None:
    (play,) = yaml.safe_load((ROOT / "playbooks/preflight.yml").read_text())
    assert set(play["vars"]["preflight_names"]["desktop_hosts"]) == values.CHECKED


def test_defaults_of_the_role_are_the_services() -> None:
    defaults = yaml.safe_load((ROOT / "roles/desktops/defaults/main.yml").read_text())
    different = {"database_url", "redis_url", "agent_socket"}  # of the lab's own PostgreSQL, Redis and agent
    for variable, value in defaults.items():
        name = variable.removeprefix("desktops_")
        setting = OF_OTHER_NAME.get(name, name)
        if setting in Settings.model_fields and setting not in different:
            default = Settings.model_fields[setting].default
            assert value == ("" if default is None else str(default) if isinstance(value, str) else default), variable
