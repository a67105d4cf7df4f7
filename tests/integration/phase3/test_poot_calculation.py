"""PoOT: submitted, validated, scored, paid, looked up again."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labyard.desktops.models import AccountEntry, Payout, Poot

pytestmark = [pytest.mark.phase3_integration, pytest.mark.poot_calculation]

WALLET = "TTestWalletAddress123456789"
Submit = Callable[..., str]


@pytest.fixture
def submit(node_client: httpx.Client, sample_poot_data: dict[str, Any]) -> Submit:
    def make(**changes: Any) -> str:
        body = sample_poot_data | {"nonce": secrets.token_hex(8)} | changes
        answer = node_client.post("/poot/submit", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["poot_id"])

    return make


def validate(client: httpx.Client, poot_id: str) -> dict[str, Any]:
    answer = client.post(f"/poot/{poot_id}/validate")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def pay(client: httpx.Client, poot_id: str, wallet: str = WALLET) -> httpx.Response:
    return client.post(f"/poot/{poot_id}/payout", json={"wallet_address": wallet})


class TestWorkflow:
    def test_submit_validate_score_pay_verify(
        self, node_client: httpx.Client, sample_poot_data: dict[str, Any], test_db: Session
    ) -> None:
        made = node_client.post("/poot/submit", json=sample_poot_data)
        assert made.status_code == 201 and made.json()["status"] == "submitted"
        assert made.json()["node_id"] == sample_poot_data["node_id"]
        poot_id = made.json()["poot_id"]
        judged = validate(node_client, poot_id)
        assert judged["is_valid"] is True and 0 <= judged["score"] <= 100 and 0 <= judged["confidence"] <= 1
        assert judged["validation_timestamp"]
        shown = node_client.get(f"/poot/{poot_id}").json()
        assert shown["score"] == judged["score"] and shown["status"] == "validated"
        paid = pay(node_client, poot_id)
        assert paid.status_code == 200, paid.text
        assert paid.json()["amount"] > 0 and paid.json()["currency"] == "USDT"
        assert paid.json()["status"] == "processed" and paid.json()["wallet_address"] == WALLET
        assert node_client.get(f"/poot/{poot_id}/payout").json() == paid.json()
        assert test_db.get_one(Poot, poot_id).score == Decimal(str(judged["score"]))
        row = test_db.scalars(select(Payout).where(Payout.poot_id == poot_id)).one()
        assert row.amount == Decimal(str(paid.json()["amount"]))
        entries = select(func.sum(AccountEntry.amount)).where(AccountEntry.reference == row.payout_id)
        assert test_db.scalar(entries) == 0

    def test_no_history_scores_two_and_a_half(self, node_client: httpx.Client, submit: Submit) -> None:
        assert validate(node_client, submit())["score"] == 2.5

    def test_a_validation_is_for_good(self, node_client: httpx.Client, submit: Submit) -> None:
        poot_id = submit()
        assert validate(node_client, poot_id) == validate(node_client, poot_id)


class TestBadInput:
    @pytest.mark.parametrize("field", ["node_id", "output_data", "timestamp", "nonce"])
    @pytest.mark.parametrize("value", ["", None, 7])
    def test_fields(self, node_client: httpx.Client, sample_poot_data: dict[str, Any], field: str, value: Any) -> None:
        answer = node_client.post("/poot/submit", json=sample_poot_data | {field: value})
        assert answer.status_code == 400
        del sample_poot_data[field]
        assert node_client.post("/poot/submit", json=sample_poot_data).status_code == 400

    @pytest.mark.parametrize("stamp", ["2024-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "not a time"])
    def test_stamps(self, node_client: httpx.Client, sample_poot_data: dict[str, Any], stamp: str) -> None:
        assert node_client.post("/poot/submit", json=sample_poot_data | {"timestamp": stamp}).status_code == 400

    def test_replay(self, node_client: httpx.Client, sample_poot_data: dict[str, Any]) -> None:
        codes = [node_client.post("/poot/submit", json=sample_poot_data).status_code for _ in range(2)]
        assert codes == [201, 409]

    def test_unknown(self, node_client: httpx.Client) -> None:
        for method, path in (("GET", ""), ("POST", "/validate"), ("POST", "/payout"), ("GET", "/payout")):
            assert node_client.request(method, f"/poot/unknown{path}").status_code == 404

    def test_payouts(self, node_client: httpx.Client, submit: Submit) -> None:
        poot_id = submit()
        assert pay(node_client, poot_id).status_code == 409, "not validated"
        validate(node_client, poot_id)
        assert pay(node_client, poot_id, "").status_code == 400
        assert pay(node_client, poot_id).status_code == 200
        assert pay(node_client, poot_id).status_code == 409
        assert pay(node_client, poot_id, "").status_code == 400


class TestBatches:
    def test_validate_and_pay(self, node_client: httpx.Client, submit: Submit) -> None:
        ids = [submit() for _ in range(5)]
        judged = node_client.post("/poot/batch/validate", json={"poot_ids": ids}).json()
        assert [item["poot_id"] for item in judged["results"]] == ids
        assert judged["summary"]["total"] == judged["summary"]["valid"] == 5
        paid = node_client.post("/poot/batch/payout", json={"poot_ids": ids, "wallet_address": WALLET}).json()
        assert paid["total_amount"] == sum(item["amount"] for item in paid["results"]) > 0
        again = node_client.post("/poot/batch/payout", json={"poot_ids": ids, "wallet_address": WALLET})
        assert again.status_code == 409

    def test_an_unknown_one(self, node_client: httpx.Client, submit: Submit) -> None:
        poot_id = submit()
        judged = node_client.post("/poot/batch/validate", json={"poot_ids": [poot_id, "unknown"]}).json()
        assert judged["summary"] == {"total": 2, "valid": 1, "invalid": 0, "errors": 1}
        body = {"poot_ids": [poot_id, "unknown"], "wallet_address": WALLET}
        assert node_client.post("/poot/batch/payout", json=body).status_code == 404
        assert node_client.get(f"/poot/{poot_id}/payout").status_code == 404, "nothing of the batch was paid"


class TestStatistics:
    def test_totals(self, node_client: httpx.Client, submit: Submit, sample_poot_data: dict[str, Any]) -> None:
        before = node_client.get("/poot/statistics").json()
        poot_id = submit()
        submit()
        validate(node_client, poot_id)
        amount = pay(node_client, poot_id).json()["amount"]
        after = node_client.get("/poot/statistics").json()
        # Other workers have services of their own: nobody else submits here.
        assert after["total_poot"] == before["total_poot"] + 2
        assert after["validated_poot"] == before["validated_poot"] + 1
        assert after["total_payouts"] == before["total_payouts"] + 1
        assert after["total_payout_amount"] == pytest.approx(before["total_payout_amount"] + amount)
        mine = node_client.get(f"/poot/nodes/{sample_poot_data['node_id']}/statistics").json()
        assert (mine["total_poot"], mine["total_payouts"], mine["average_score"]) == (2, 1, 2.5)

    def test_history(self, node_client: httpx.Client, submit: Submit, sample_poot_data: dict[str, Any]) -> None:
        ids = [submit() for _ in range(3)]
        found = node_client.get("/poot/history", params={"limit": 2, "node_id": sample_poot_data["node_id"]}).json()
        assert [row["poot_id"] for row in found["poot_history"]] == ids[:0:-1]
        assert node_client.get("/poot/nodes/nobody/statistics").status_code == 404


class TestConcurrency:
    def test_twenty_at_once(self, node_client: httpx.Client, submit: Submit) -> None:
        def one(_: int) -> float:
            poot_id = submit()
            assert validate(node_client, poot_id)["is_valid"]
            return float(pay(node_client, poot_id).json()["amount"])

        with ThreadPoolExecutor(20) as pool:
            assert len([amount for amount in pool.map(one, range(20)) if amount > 0]) == 20

    def test_paid_once(self, node_client: httpx.Client, submit: Submit) -> None:
        poot_id = submit()
        validate(node_client, poot_id)
        with ThreadPoolExecutor(8) as pool:
            codes = sorted(pool.map(lambda _: pay(node_client, poot_id).status_code, range(8)))
        assert codes == [200] + [409] * 7


class TestSessions:
    def test_one_that_is_submitted_for_a_session_is_seen_in_it(
        self, node_client: httpx.Client, submit: Submit, sample_session_data: dict[str, Any]
    ) -> None:
        session = f"/sessions/{node_client.post('/sessions', json=sample_session_data).json()['session_id']}"
        poots = [submit(session_id=session.removeprefix("/sessions/")) for _ in range(2)]
        found = node_client.get(session).json()
        assert (found["poot_references"], found["poot_id"]) == (poots, poots[-1])
        assert validate(node_client, poots[0])["is_valid"]
        assert node_client.delete(session).status_code == 204


class TestNodes:
    def test_a_registered_node_earns_reputation(
        self, node_client: httpx.Client, register: Callable[..., dict[str, Any]], submit: Submit
    ) -> None:
        node = register()
        poot_id = submit(node_id=node["name"])
        assert node_client.get(f"/poot/{poot_id}").json()["node_registered"] is True
        score = validate(node_client, poot_id)["score"]
        shown = node_client.get(f"/nodes/{node['node_id']}").json()
        assert shown["poot_score"] == score and shown["reputation"] == 50 + score * 0.2 / 2
