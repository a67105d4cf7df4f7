# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Jinja filters on `evse_groups`, for the role evse_group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.labyard.lab.plugins.module_utils.evse_groups import plan, problems


class FilterModule:
    """Found by Ansible under this name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"evse_group_problems": problems, "evse_group_plan": plan}
