"""What carries a withdrawal out in the world. Without one, a withdrawal is booked and no transfer is claimed."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from labyard.core.adapter import AdapterError


class SettlementError(AdapterError):
    """Nothing was paid."""


class Settlement(Protocol):
    def pay(self, wallet_address: str, amount: Decimal, reference: str) -> str:
        """The transfer's hash. Again with the same `reference` it must pay nothing more. SettlementError."""
