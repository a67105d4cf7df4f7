"""What a score is paid, and what a withdrawal costs (contract 8.4). Decimal arithmetic, in USDT."""

from __future__ import annotations

from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from labyard.desktops.settings import QUANTUM

MOST = Decimal(10_000)  # of one payout, of a batch, of a withdrawal, and of a wallet's day
MOST_A_DAY = Decimal(100_000)  # of all withdrawals
LEAST_WITHDRAWAL = Decimal(10)
FEE = Decimal("0.01")
_MICRO = Decimal("0.000001")


def amount(score: Decimal, base_rate: Decimal) -> Decimal:
    """For a score of 0 to 100: rounded down to a 64th, which is exact in six decimals and in binary floats alike."""
    quanta = (base_rate * score / 100 / QUANTUM).to_integral_value(ROUND_FLOOR)
    return max(QUANTUM, min(MOST, quanta * QUANTUM))


def fee_and_net(gross: Decimal) -> tuple[Decimal, Decimal]:
    """They add up to `gross`."""
    fee = (gross * FEE).quantize(_MICRO, ROUND_HALF_EVEN)
    return fee, gross - fee
