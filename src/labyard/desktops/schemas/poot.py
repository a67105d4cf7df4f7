"""Requests and answers of PoOT, payouts and withdrawals (contract section 8)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from labyard.desktops.fields import Answer, Body, Line, Moment, TimeIn, parse_time
from labyard.desktops.schemas.nodes import PagedOut

MAX_OUTPUT = 2**20  # bytes
# Numbers outside, NUMERIC inside: amounts are multiples of 1/64 or have six decimals.
Number = Annotated[Decimal, PlainSerializer(float, return_type=float, when_used="json")]


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must hold printable characters only")
    return value


def _ascii(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError("must hold printable ASCII characters only")
    return value


def _output(value: str) -> str:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    if size > MAX_OUTPUT:
        raise ValueError(f"must have at most {MAX_OUTPUT} bytes")
    return value


def _time(value: str) -> str:
    parse_time(value)
    return value


Wallet = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_not_blank), AfterValidator(_ascii)]
PootId = Annotated[Line, Field(min_length=1, max_length=64)]


class PootIn(Body):
    node_id: Annotated[Line, Field(min_length=1, max_length=255), AfterValidator(_not_blank)]
    output_data: Annotated[str, Field(min_length=1), AfterValidator(_not_blank), AfterValidator(_output)]
    # As text: an agent signs it as it is sent.
    timestamp: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_time)]
    nonce: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_not_blank), AfterValidator(_printable)]
    session_id: Line | None = Field(default=None, min_length=1, max_length=64)
    signature: str | None = Field(default=None, min_length=1, max_length=128)

    @property
    def at(self) -> datetime:
        return parse_time(self.timestamp)


class PayoutIn(Body):
    wallet_address: Wallet


class BatchValidateIn(Body):
    poot_ids: list[PootId] = Field(min_length=1, max_length=100)


class BatchPayoutIn(Body):
    poot_ids: list[PootId] = Field(min_length=1, max_length=1000)
    wallet_address: Wallet


class OperationalRecordIn(Body):
    window_start: TimeIn
    window_end: TimeIn
    session_hours: float = Field(ge=0, le=1e6)
    work_credits: float = Field(ge=0, le=1e9)
    resource_utilization: float = Field(ge=0, le=1)
    network_mbps: float = Field(ge=0, le=1e6)
    uptime_percentage: float = Field(ge=0, le=100)
    session_quality: float = Field(ge=0, le=1)
    trust_score: float = Field(ge=0, le=1)
    source: Line = Field(min_length=1, max_length=255)
    evidence_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _window(self) -> OperationalRecordIn:
        if self.window_end <= self.window_start:
            raise ValueError("window_end must be after window_start")
        return self


class SubmittedOut(Answer):
    poot_id: str
    status: str
    node_id: str
    node_registered: bool
    session_id: str | None
    timestamp: Moment
    output_hash: str
    flags: list[str]
    submitted_at: Moment


class ValidationOut(Answer):
    poot_id: str
    is_valid: bool
    score: float
    confidence: float
    validation_timestamp: Moment
    validation_time_ms: float
    factors: dict[str, float]
    weights: dict[str, float]
    inputs: dict[str, Any]
    metrics_source: str
    flags: list[str]
    errors: list[str]


class PootOut(SubmittedOut):
    score: float | None
    is_valid: bool | None
    confidence: float | None
    validated_at: Moment | None
    metrics_source: str | None
    payout_id: str | None


class ItemError(Answer):
    code: str
    message: str


class BatchItem(Answer):
    poot_id: str
    is_valid: bool
    score: float | None = None
    confidence: float | None = None
    validation_timestamp: Moment | None = None
    flags: list[str] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)
    error: ItemError | None = None


class BatchSummary(Answer):
    total: int
    valid: int
    invalid: int
    errors: int


class BatchOut(Answer):
    batch_id: str
    results: list[BatchItem]
    summary: BatchSummary


class PayoutOut(Answer):
    payout_id: str
    poot_id: str
    batch_id: str | None
    amount: Number
    currency: str
    status: str
    wallet_address: str
    node_registered: bool
    transaction_hash: str | None
    withdrawal_id: str | None
    created_at: Moment
    processed_at: Moment | None


class BatchPayoutOut(Answer):
    batch_id: str
    wallet_address: str
    currency: str
    results: list[PayoutOut]
    total_amount: Number
    total_amount_exact: str


class PootStatisticsOut(Answer):
    total_poot: int
    validated_poot: int
    pending_poot: int
    rejected_poot: int
    expired_poot: int
    average_score: float | None
    total_payouts: int
    total_payout_amount: Number


class NodePootStatisticsOut(Answer):
    node_id: str
    node_registered: bool
    total_poot: int
    validated_poot: int
    average_score: float | None
    total_payouts: int
    total_payout_amount: Number
    reputation: float


class PootHistoryOut(PagedOut):
    poot_history: list[PootOut]


class OperationalRecordOut(Answer):
    node_id: str
    window_start: Moment
    window_end: Moment
    session_hours: float
    work_credits: float
    resource_utilization: float
    network_mbps: float
    uptime_percentage: float
    session_quality: float
    trust_score: float
    source: str
    evidence_sha256: str | None
    imported_by: str
    imported_at: Moment


class PayoutsOut(PagedOut):
    payouts: list[PayoutOut]


class WithdrawalOut(Answer):
    withdrawal_id: str
    wallet_address: str
    gross_amount: Number
    fee_amount: Number
    net_amount: Number
    currency: str
    status: str
    attempts: int
    transaction_hash: str | None
    last_error: str | None
    created_at: Moment
    processed_at: Moment | None


class WithdrawalsOut(PagedOut):
    withdrawals: list[WithdrawalOut]
