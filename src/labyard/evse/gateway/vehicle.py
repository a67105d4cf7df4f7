"""What others tell of the vehicle and the house's battery with `POST /status`: contract 5.1."""

from __future__ import annotations

from typing import Any

BY_HTTP = 3  # vehicle_data_src
VEHICLE = ("battery_level", "battery_range", "time_to_full_charge", "vehicle_charge_limit")
HOME = ("home_battery_soc", "home_battery_power")


class Vehicle:
    def __init__(self) -> None:
        self.known: dict[str, float] = {}
        self.updated_at: float | None = None

    def take(self, content: dict[str, Any], source: int, now: float) -> bool:
        """Whether there was anything of the vehicle in it. ValueError names a key that is no number."""
        taken = {key: number(content, key) for key in HOME if key in content}
        vehicle = {key: number(content, key) for key in VEHICLE if key in content} if source == BY_HTTP else {}
        self.known |= taken | vehicle
        if vehicle:
            self.updated_at = now
        return bool(vehicle)


def number(content: dict[str, Any], key: str) -> float:
    """ValueError, which names the key, if its value is no number."""
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise ValueError(f"{key} must be a number")
    return value
