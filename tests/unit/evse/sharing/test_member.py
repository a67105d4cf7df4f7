"""Whom a member obeys, and what it then does."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labyard.evse.clock import Clock
from labyard.evse.gateway.options import BadOption, Options
from labyard.evse.gateway.storage import Storage
from labyard.evse.sharing.directory import Directory, Found
from labyard.evse.sharing.limit import Limit
from labyard.evse.sharing.member import READ_ONLY, Member

CONTROLLER, STRANGER, HERE = "192.168.1.2", "192.168.1.66", "192.168.1.5"
HOST = "openevse-1.local:8001"


class Table:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.clock.set("manual")
        self.options = Options(Storage(folder))
        self.applied: list[Limit | None] = []
        self.left: list[str] = []
        self.searches = 0
        directory = Directory()
        directory.heard(Found("openevse-1", "192.168.1.3", 8001, addresses=(CONTROLLER, "192.168.1.3")), 0.0)
        wall = SimpleNamespace(now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
        gateway: Any = SimpleNamespace(options=self.options, clock=self.clock, wall=wall)
        self.member = Member(
            gateway, lambda: directory, lambda: [HERE], self.applied.append, self.left.append, self.searched
        )
        self.options.on_change(lambda _: self.member.configure())
        self.member.configure()

    def set(self, client: str, **values: Any) -> None:
        self.options.update({f"loadsharing_{key}": value for key, value in values.items()}, client)

    async def allocate(self, client: str = CONTROLLER, **message: Any) -> None:
        await self.member.allocate({"target_current": 16, "reason": "equal_share"} | message, client)

    def searched(self) -> None:
        self.searches += 1

    @property
    def limit(self) -> Limit | None:
        return self.applied[-1] if self.applied else None


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table(tmp_path)
    table.set(STRANGER, role="member", controller_host=HOST)  # the first push: from anyone near
    return table


async def test_it_falls_back_obeys_and_falls_back_again(table: Table) -> None:
    assert table.options["loadsharing_enabled"] is True
    assert table.limit == Limit(6, off=False, reason="controller_lost")
    await table.allocate()
    assert table.limit == Limit(16, off=False, reason="allocation")
    await table.clock.advance(31)
    await table.member._tick(0)
    assert table.limit == Limit(6, off=False, reason="controller_lost")


@pytest.mark.parametrize("client", [CONTROLLER, "192.168.1.3", "127.0.0.1", "::1", HERE])
async def test_it_obeys_its_controller_and_this_machine(table: Table, client: str) -> None:
    await table.allocate(client)
    assert table.limit == Limit(16, off=False, reason="allocation")
    table.set(client, role="member", failsafe_safe_current=9)
    assert table.options["loadsharing_failsafe_safe_current"] == 9


async def test_it_does_not_obey_others(table: Table) -> None:
    await table.allocate(STRANGER)
    assert table.member.ignored == table.searches == 1
    assert table.limit == Limit(6, off=False, reason="controller_lost")
    await table.allocate()
    for values in ({"role": "member", "group_max_current": 99}, {"role": ""}):
        with pytest.raises(BadOption, match="is not its controller") as refused:
            table.set(STRANGER, **values)
        assert refused.value.status == 403
    with pytest.raises(BadOption) as refused:
        table.set(CONTROLLER, group_max_current=99)
    assert (refused.value.status, str(refused.value)) == (403, READ_ONLY)
    assert table.options["loadsharing_group_max_current"] == 0


async def test_who_lost_its_controller_may_be_taken_out_of_the_group_by_anyone_near(table: Table) -> None:
    with pytest.raises(BadOption):
        table.set("8.8.8.8", role="")
    table.set(STRANGER, role="")
    assert table.left == [HOST]
    assert table.limit is None and not table.member.active
    assert table.options["loadsharing_controller_host"] == ""


def test_nobody_from_outside_makes_it_a_member(tmp_path: Path) -> None:
    table = Table(tmp_path)
    with pytest.raises(BadOption, match="same network") as refused:
        table.set("8.8.8.8", role="member", controller_host="x.local")
    assert refused.value.status == 403
    table.set("8.8.8.8", priority=3)
    assert table.options["loadsharing_priority"] == 3, "that is the gate's matter"


@pytest.mark.parametrize("current", [-1, 1e9, "16", None, True, float("nan")])
async def test_what_is_no_current_is_ignored(table: Table, current: Any) -> None:
    await table.allocate(target_current=current)
    assert table.member.ignored == 1 and table.limit == Limit(6, off=False, reason="controller_lost")


async def test_versions_count_changes_only(table: Table) -> None:
    before = table.options["loadsharing_config_version"]
    table.set(CONTROLLER, role="member", failsafe_safe_current=9)
    assert table.options["loadsharing_config_version"] == before + 1
    assert table.options["loadsharing_config_updated_at"] == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    table.set(CONTROLLER, role="member", failsafe_safe_current=9)
    assert table.options["loadsharing_config_version"] == before + 1


async def test_no_charge_at_all(table: Table) -> None:
    await table.allocate(target_current=0, reason="failsafe_disabled")
    assert table.limit == Limit(0, off=True, reason="allocation")
    table.set(CONTROLLER, role="member", failsafe_mode="disable")
    await table.clock.advance(31)
    await table.member._tick(0)
    assert table.limit == Limit(0, off=True, reason="controller_lost")
