"""PoOT, payouts and withdrawals (contract section 8)."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import fsum
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from labyard.core.clock import as_text, now
from labyard.desktops.adapters.settlement import SettlementError
from labyard.desktops.models import AccountEntry, Agent, Heartbeat, Node, Payout, Poot, UsageSample
from labyard.desktops.roles import Principal, Role
from labyard.desktops.service import Desktops
from labyard.desktops.service.node_life import SLOT
from labyard.desktops.service.poots import signed_payload
from labyard.desktops.service.withdrawals import Withdrawals

from .conftest import Caller
from .test_desktops_nodes import node_like

WALLET = "TTestWalletAddress123"
RECORD = {
    "session_hours": 10, "work_credits": 10000, "resource_utilization": 0.8, "network_mbps": 1000,
    "uptime_percentage": 99.9, "session_quality": 0.95, "trust_score": 0.9, "source": "migration",
}  # fmt: skip


def poot_like(**changes: Any) -> dict[str, Any]:
    body = {
        "node_id": "test-node-001",
        "output_data": "base64_encoded_output_data_for_poot",
        "timestamp": as_text(now()),
        "nonce": secrets.token_hex(8),
    } | changes
    return {name: value for name, value in body.items() if value is not ...}


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def submit(operator: Caller) -> Callable[..., str]:
    def make(**changes: Any) -> str:
        answer = operator.post("/poot/submit", json=poot_like(**changes))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["poot_id"])

    return make


@pytest.fixture
def validated(operator: Caller, submit: Callable[..., str]) -> Callable[..., str]:
    def make(**changes: Any) -> str:
        poot = submit(**changes)
        assert operator.post(f"/poot/{poot}/validate").json()["is_valid"]
        return poot

    return make


def load(admin: Caller, node_id: str, **changes: Any) -> Any:
    window = {"window_start": as_text(now() - timedelta(hours=24)), "window_end": as_text(now())}
    return admin.put(f"/poot/nodes/{node_id}/operational-record", json=RECORD | window | changes)


class TestSubmission:
    def test_answer(self, operator: Caller) -> None:
        body = poot_like(timestamp="2026-01-01T00:00:00Z")
        body["timestamp"] = datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat()  # naive is UTC
        made = operator.post("/poot/submit", json=body)
        assert made.status_code == 201, made.text
        found = made.json()
        assert found["status"] == "submitted" and found["node_id"] == "test-node-001"
        assert found["node_registered"] is False and found["flags"] == ["unsigned"] and found["session_id"] is None
        assert len(found["output_hash"]) == 64

    @pytest.mark.parametrize(
        "changes",
        [
            {"node_id": ...}, {"output_data": ...}, {"timestamp": ...}, {"nonce": ...},
            {"node_id": ""}, {"output_data": ""}, {"timestamp": ""}, {"nonce": ""}, {"nonce": "  "},
            {"node_id": 5}, {"output_data": None}, {"timestamp": 5}, {"timestamp": "yesterday"},
            {"timestamp": "99999-01-01T00:00:00Z"}, {"nonce": "x" * 129}, {"nonce": "a\nb"}, {"node_id": "a\u0000"},
            {"output_data": "x" * (2**20 + 1)}, {"session_id": "sess-none"}, {"signature": "AAAA"},
        ],
    )  # fmt: skip
    def test_bad_bodies(self, steady: Caller, changes: dict[str, Any]) -> None:
        before = steady.get("/poot/statistics").json()["total_poot"]
        answer = steady.post("/poot/submit", json=poot_like(**changes))
        assert code(answer) == (400, "VALIDATION_FAILED")
        assert answer.json()["error"]["details"][0]["field"] == next(iter(changes))
        assert steady.get("/poot/statistics").json()["total_poot"] == before

    @pytest.mark.parametrize(
        ("stamp", "expected"),
        [
            (lambda: "2024-01-01T00:00:00Z", "POOT_STALE"),
            (lambda: as_text(now() - timedelta(hours=24)), "POOT_STALE"),
            (lambda: as_text(now() + timedelta(minutes=6)), "POOT_FUTURE"),
        ],
    )
    def test_stale_and_future(self, steady: Caller, stamp: Callable[[], str], expected: str) -> None:
        assert code(steady.post("/poot/submit", json=poot_like(timestamp=stamp()))) == (400, expected)

    def test_within_the_window(self, submit: Callable[..., str]) -> None:
        submit(timestamp=as_text(now() - timedelta(hours=23, minutes=59)))
        submit(timestamp=as_text(now() + timedelta(minutes=4)))

    def test_a_nonce_counts_once_for_a_node(self, operator: Caller, submit: Callable[..., str]) -> None:
        submit(nonce="n")
        assert code(operator.post("/poot/submit", json=poot_like(nonce="n"))) == (409, "POOT_REPLAY")
        submit(nonce="n", node_id="another")

    def test_a_nonce_counts_once_at_once(self, operator: Caller) -> None:
        body = poot_like(nonce="same")
        with ThreadPoolExecutor(8) as pool:
            codes = sorted(pool.map(lambda _: operator.post("/poot/submit", json=body).status_code, range(8)))
        assert codes == [201] + [409] * 7

    def test_a_name_stands_for_its_node(self, operator: Caller, submit: Callable[..., str]) -> None:
        node = operator.post("/nodes", json=node_like(name="test-node-001")).json()["node_id"]
        poot = submit(nonce="n")
        assert operator.get(f"/poot/{poot}").json()["node_registered"] is True
        replay = poot_like(node_id=node, nonce="n")
        assert code(operator.post("/poot/submit", json=replay)) == (409, "POOT_REPLAY")
        assert operator.get(f"/poot/nodes/{node}/statistics").json()["total_poot"] == 1

    def test_a_nonce_counts_once_before_a_node_is_registered_and_after(
        self, operator: Caller, submit: Callable[..., str]
    ) -> None:
        submit(nonce="by name", node_id="early bird")
        submit(nonce="by id", node_id="node_early")
        node = operator.post("/nodes", json=node_like(name="early bird", node_id="node_early"))
        assert node.status_code == 201, node.text
        submit(nonce="registered", node_id="early bird")

        def check_replayed(nonce: str, *names: str) -> None:
            for name in names:
                answer = operator.post("/poot/submit", json=poot_like(node_id=name, nonce=nonce))
                assert code(answer) == (409, "POOT_REPLAY"), (name, nonce)

        both = ("early bird", "node_early")
        check_replayed("by name", *both)
        check_replayed("by id", *both)
        assert operator.delete("/nodes/node_early").status_code == 204
        check_replayed("registered", *both)

    def test_registered_nodes_only_when_told_so(self, make_http: Callable[..., TestClient], operator: Caller) -> None:
        strict = Caller(make_http(poot_require_registered_node=True), operator.token)
        assert code(strict.post("/poot/submit", json=poot_like())) == (400, "VALIDATION_FAILED")

    def test_a_session_gets_the_reference(self, operator: Caller, submit: Callable[..., str]) -> None:
        body = {"name": "n", "rdp_config": {"host": "h", "username": "u"}}
        session_id = operator.post("/sessions", json=body).json()["session_id"]
        poot = submit(session_id=session_id)
        assert operator.get(f"/sessions/{session_id}").json()["poot_references"] == [poot]
        assert "session_node_mismatch" in operator.get(f"/poot/{poot}").json()["flags"]
        assert operator.delete(f"/sessions/{session_id}").status_code == 204
        late = operator.post("/poot/submit", json=poot_like(session_id=session_id))
        assert code(late) == (400, "VALIDATION_FAILED")


class TestSignatures:
    @pytest.fixture
    def key(self, operator: Caller, service: Desktops) -> Ed25519PrivateKey:
        operator.post("/nodes", json=node_like(node_id="signing"))
        key = Ed25519PrivateKey.generate()
        public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        with service.database.transaction() as session:
            session.add(Agent(node_id="signing", address="https://10.0.0.1:1", public_key=public))
        return key

    def signed(self, key: Ed25519PrivateKey, **changes: Any) -> dict[str, Any]:
        import hashlib

        body = poot_like(node_id="signing")
        digest = hashlib.sha256(body["output_data"].encode()).hexdigest()
        payload = signed_payload(body["node_id"], digest, body["timestamp"], body["nonce"])
        return body | {"signature": base64.b64encode(key.sign(payload)).decode()} | changes

    def test_a_right_one_needs_no_flag(self, operator: Caller, key: Ed25519PrivateKey) -> None:
        assert operator.post("/poot/submit", json=self.signed(key)).json()["flags"] == []

    @pytest.mark.parametrize("changes", [{"nonce": "other"}, {"output_data": "other"}, {"signature": "é"}])
    def test_a_wrong_one_is_refused(self, operator: Caller, key: Ed25519PrivateKey, changes: dict[str, Any]) -> None:
        answer = operator.post("/poot/submit", json=self.signed(key, **changes))
        assert code(answer) == (400, "VALIDATION_FAILED")
        assert operator.get("/nodes/signing").json()["reputation"] == 50, "anybody may have sent it"

    def test_misconduct_of_the_agent_itself_costs_reputation(self, service: Desktops, key: Ed25519PrivateKey) -> None:
        from labyard.desktops.errors import Refusal
        from labyard.desktops.schemas.poot import PootIn

        agent = Principal("agent:signing", frozenset({Role.AGENT}), node_id="signing")
        body = PootIn.model_validate(self.signed(key))
        service.poots.submit(body, agent)
        with pytest.raises(Refusal, match="nonce"):
            service.poots.submit(body, agent)
        with pytest.raises(Refusal, match="signature"):
            service.poots.submit(PootIn.model_validate(self.signed(key, nonce="x")), agent)
        with pytest.raises(Refusal, match="own node"):
            service.poots.submit(PootIn.model_validate(poot_like(node_id="other")), agent)
        assert service.nodes.get("signing").shown()["reputation"] == pytest.approx(30, abs=0.01)


class TestValidation:
    def test_without_history(self, operator: Caller, submit: Callable[..., str]) -> None:
        poot = submit()
        first = operator.post(f"/poot/{poot}/validate")
        assert first.status_code == 200, first.text
        found = first.json()
        assert found["score"] == 2.5 and found["is_valid"] is True and found["confidence"] == 0.5
        assert found["metrics_source"] == "none" and found["flags"] == ["unsigned"] and found["errors"] == []
        assert sum(found["factors"][name] * found["weights"][name] for name in found["weights"]) == pytest.approx(2.5)
        assert operator.post(f"/poot/{poot}/validate").json() == found
        shown = operator.get(f"/poot/{poot}").json()
        assert shown["score"] == 2.5 and shown["status"] == "validated" and shown["payout_id"] is None

    @pytest.mark.parametrize("registered", [True, False])
    def test_an_imported_record_is_what_counts(
        self, operator: Caller, admin: Caller, submit: Callable[..., str], registered: bool
    ) -> None:
        if registered:
            operator.post("/nodes", json=node_like(name="test-node-001"))
        assert load(admin, "test-node-001").status_code == 200
        found = operator.post(f"/poot/{submit()}/validate").json()
        assert found["score"] == 95.985 and found["metrics_source"] == "imported"
        assert found["inputs"]["session_quality"] == 0.95

    def test_an_old_record_counts_no_more(self, operator: Caller, admin: Caller, submit: Callable[..., str]) -> None:
        old = {"window_start": "2026-01-01T00:00:00Z", "window_end": "2026-01-02T00:00:00Z"}
        assert load(admin, "test-node-001", **old).status_code == 200
        assert operator.post(f"/poot/{submit()}/validate").json()["score"] == 2.5

    @pytest.mark.parametrize(
        "changes",
        [
            {"session_quality": 1.1}, {"uptime_percentage": -1}, {"trust_score": "high"}, {"source": ""},
            {"window_end": "2020-01-01T00:00:00Z"}, {"window_end": "2999-01-01T00:00:00Z"}, {"evidence_sha256": "x"},
        ],
    )  # fmt: skip
    def test_bad_records(self, steady: Caller, changes: dict[str, Any]) -> None:
        assert code(load(steady, "x", **changes)) == (400, "VALIDATION_FAILED")

    def test_what_is_measured_counts_and_what_is_not_the_nodes_own_does_not(
        self, operator: Caller, service: Desktops, submit: Callable[..., str]
    ) -> None:
        node = operator.post("/nodes", json=node_like()).json()["node_id"]
        operator.post(f"/nodes/{node}/start")  # takes a sample of the service's host
        assert operator.post(f"/poot/{submit(node_id=node)}/validate").json()["score"] == 2.5
        moment = now()
        with service.database.transaction() as session:
            session.execute(update(Node).values(created_at=moment - timedelta(hours=1)))
            slot = int(moment.timestamp()) // SLOT
            for back in range(60):
                session.add(Heartbeat(node_id=node, slot=slot - 2 * back, received_at=moment))
            session.add(
                UsageSample(
                    kind="node", subject_id=node, at=moment, cpu_percent=60, memory_percent=20, disk_percent=1,
                    network_in=25_000_000, network_out=25_000_000, source="agent", detail={},
                )
            )  # fmt: skip
        found = operator.post(f"/poot/{submit(node_id=node)}/validate").json()
        assert found["metrics_source"] == "measured"
        assert found["inputs"]["resource_utilization"] == pytest.approx(0.4)
        assert found["inputs"]["network_mbps"] == pytest.approx(400)
        assert found["inputs"]["uptime_percentage"] == pytest.approx(50, abs=1)
        # 60 heartbeats, and the PoOT of before.
        assert found["inputs"]["work_credits"] == pytest.approx(6.3)

    def test_words_do_not_move_the_score(self, operator: Caller, submit: Callable[..., str]) -> None:
        found = [
            operator.post(f"/poot/{submit(node_id=name, output_data=name)}/validate").json()["score"]
            for name in ("premium-gold-node", "test", "mock", "invalid", "node_9999")
        ]
        assert set(found) == {2.5}

    def test_below_one_is_rejected(self, operator: Caller, admin: Caller, submit: Callable[..., str]) -> None:
        nothing = dict.fromkeys([name for name in RECORD if name != "source"], 0)
        load(admin, "test-node-001", **nothing)
        poot = submit()
        found = operator.post(f"/poot/{poot}/validate").json()
        assert found["is_valid"] is False and found["score"] == 0 and found["errors"]
        assert operator.get(f"/poot/{poot}").json()["status"] == "rejected"
        assert code(operator.post(f"/poot/{poot}/payout", json={"wallet_address": WALLET})) == (409, "POOT_STATE")

    def test_scores_move_the_reputation(self, operator: Caller, admin: Caller, validated: Callable[..., str]) -> None:
        node = operator.post("/nodes", json=node_like()).json()["node_id"]
        load(admin, node, trust_score=1, session_quality=1, uptime_percentage=100, resource_utilization=1)
        validated(node_id=node)
        shown = operator.get(f"/nodes/{node}").json()
        assert shown["poot_score"] == 100 and shown["reputation"] == 60
        assert operator.get(f"/poot/nodes/{node}/statistics").json()["reputation"] == 60
        assert operator.get("/nodes/pools/pool_workers/statistics").json()["average_reputation"] == 60

    def test_too_late(self, operator: Caller, submit: Callable[..., str], service: Desktops) -> None:
        poot = submit()
        with service.database.transaction() as session:
            session.execute(update(Poot).values(submitted_at=now() - timedelta(hours=25)))
        assert code(operator.post(f"/poot/{poot}/validate")) == (409, "POOT_STATE")
        assert operator.get(f"/poot/{poot}").json()["status"] == "expired"

    def test_at_once_there_is_one_answer(self, operator: Caller, submit: Callable[..., str], service: Desktops) -> None:
        node = operator.post("/nodes", json=node_like()).json()["node_id"]
        poot = submit(node_id=node)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: operator.post(f"/poot/{poot}/validate").json(), range(8)))
        assert answers == answers[:1] * 8
        assert operator.get(f"/nodes/{node}").json()["reputation"] == 50.25  # counted once

    def test_a_batch_in_its_order(self, operator: Caller, submit: Callable[..., str]) -> None:
        ids = [submit(node_id=f"n{number}") for number in range(5)]
        asked = [ids[3], "poot-none", ids[0], ids[3]]
        answer = operator.post("/poot/batch/validate", json={"poot_ids": asked}).json()
        assert [item["poot_id"] for item in answer["results"]] == asked
        assert answer["summary"] == {"total": 4, "valid": 3, "invalid": 0, "errors": 1}
        assert answer["results"][1]["error"]["code"] == "POOT_NOT_FOUND"
        assert answer["results"][0]["score"] == operator.get(f"/poot/{ids[3]}").json()["score"] == 2.5

    @pytest.mark.parametrize("ids", [[], ["x"] * 101, "x", [5], None])
    def test_bad_batches(self, steady: Caller, ids: Any) -> None:
        answer = steady.post("/poot/batch/validate", json={"poot_ids": ids})
        assert code(answer) == (400, "VALIDATION_FAILED")

    def test_what_is_kept(self, operator: Caller, validated: Callable[..., str], service: Desktops) -> None:
        paid, unpaid = validated(), validated()
        operator.post(f"/poot/{paid}/payout", json={"wallet_address": WALLET})
        with service.database.transaction() as session:
            session.execute(update(Poot).values(submitted_at=now() - timedelta(days=367)))
        service.poots.tidy()
        assert operator.get(f"/poot/{paid}").status_code == 200
        assert operator.get(f"/poot/{unpaid}").status_code == 404

    def test_unknown_ids(self, operator: Caller) -> None:
        for method, path in (
            ("GET", "/poot/none"), ("POST", "/poot/none/validate"), ("GET", "/poot/none/payout"),
            ("POST", "/poot/none/payout"),
        ):  # fmt: skip
            assert code(operator.request(method, path)) == (404, "POOT_NOT_FOUND")
        assert code(operator.get("/poot/nodes/none/statistics")) == (404, "NODE_NOT_FOUND")

    def test_history(self, operator: Caller, submit: Callable[..., str]) -> None:
        ids = [submit(node_id="a" if number % 2 else "b") for number in range(6)]
        found = operator.get("/poot/history?limit=4").json()
        assert [row["poot_id"] for row in found["poot_history"]] == ids[:1:-1] and found["has_next"]
        mine = operator.get("/poot/history?node_id=a").json()
        assert [row["poot_id"] for row in mine["poot_history"]] == [ids[5], ids[3], ids[1]]
        assert operator.get("/poot/history?limit=0").status_code == 400


@pytest.fixture(scope="session")
def steady_poot(steady: Caller) -> str:
    """Validated, never paid."""
    made = steady.post("/poot/submit", json=poot_like()).json()["poot_id"]
    assert steady.post(f"/poot/{made}/validate").status_code == 200
    return str(made)


class TestPayout:
    def pay(self, operator: Caller, poot: str, wallet: Any = WALLET) -> Any:
        return operator.post(f"/poot/{poot}/payout", json={"wallet_address": wallet})

    def test_once(self, operator: Caller, validated: Callable[..., str]) -> None:
        poot = validated()
        assert code(operator.get(f"/poot/{poot}/payout")) == (404, "PAYOUT_NOT_FOUND")
        paid = self.pay(operator, poot)
        assert paid.status_code == 200, paid.text
        found = paid.json()
        assert found["amount"] == 0.25 and found["currency"] == "USDT" and found["status"] == "processed"
        assert found["wallet_address"] == WALLET and found["transaction_hash"] is None and found["processed_at"]
        assert operator.get(f"/poot/{poot}/payout").json() == found
        assert operator.get(f"/poot/{poot}").json()["payout_id"] == found["payout_id"]
        assert code(self.pay(operator, poot)) == (409, "POOT_ALREADY_PAID")
        assert code(self.pay(operator, poot, "")) == (400, "VALIDATION_FAILED")
        totals = operator.get("/poot/statistics").json()
        assert totals["total_payouts"] == 1 and totals["total_payout_amount"] == 0.25

    @pytest.mark.parametrize("wallet", ["", "   ", "x" * 129, "é", "a\tb", 5, None])
    def test_bad_wallets(self, steady: Caller, steady_poot: str, wallet: Any) -> None:
        assert code(self.pay(steady, steady_poot, wallet)) == (400, "VALIDATION_FAILED")

    def test_not_validated(self, operator: Caller, submit: Callable[..., str]) -> None:
        assert code(self.pay(operator, submit())) == (409, "POOT_STATE")

    def test_at_once_it_is_paid_once(self, operator: Caller, validated: Callable[..., str], service: Desktops) -> None:
        poot = validated()
        with ThreadPoolExecutor(10) as pool:
            codes = sorted(pool.map(lambda _: self.pay(operator, poot).status_code, range(10)))
        assert codes == [200] + [409] * 9
        books_balance(service, payouts=1)

    def test_a_retry_with_the_same_key_is_answered(self, operator: Caller, validated: Callable[..., str]) -> None:
        poot, key = validated(), {"Idempotency-Key": "pay-1"}
        body = {"wallet_address": WALLET}
        first, again = (operator.post(f"/poot/{poot}/payout", json=body, headers=key) for _ in range(2))
        assert first.status_code == again.status_code == 200 and first.json() == again.json()

    def test_a_batch(self, operator: Caller, admin: Caller, validated: Callable[..., str], service: Desktops) -> None:
        for number, hours in enumerate((1, 3, 7)):
            load(admin, f"n{number}", session_hours=hours)
        ids = [validated(node_id=f"n{number % 3}") for number in range(9)]
        answer = operator.post("/poot/batch/payout", json={"poot_ids": ids, "wallet_address": WALLET})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        amounts = [item["amount"] for item in found["results"]]
        assert [item["poot_id"] for item in found["results"]] == ids and len(set(amounts)) == 3
        assert found["total_amount"] == sum(amounts) == fsum(amounts)
        assert Decimal(found["total_amount_exact"]) == sum(map(Decimal, amounts))
        assert operator.get("/poot/statistics").json()["total_payout_amount"] == found["total_amount"]
        books_balance(service, payouts=9)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda good, paid, raw: [*good, good[0]], (400, "VALIDATION_FAILED")),
            (lambda good, paid, raw: [*good, "poot-none"], (404, "POOT_NOT_FOUND")),
            (lambda good, paid, raw: [*good, raw], (409, "POOT_STATE")),
            (lambda good, paid, raw: [*good, paid], (409, "POOT_ALREADY_PAID")),
            (lambda good, paid, raw: [], (400, "VALIDATION_FAILED")),
        ],
    )
    def test_a_batch_is_all_or_nothing(
        self, operator: Caller, validated: Callable[..., str], submit: Callable[..., str], service: Desktops,
        change: Callable[..., list[str]], expected: tuple[int, str],
    ) -> None:  # fmt: skip
        good, paid, raw = [validated(), validated()], validated(), submit()
        self.pay(operator, paid)
        body = {"poot_ids": change(good, paid, raw), "wallet_address": WALLET}
        assert code(operator.post("/poot/batch/payout", json=body)) == expected
        books_balance(service, payouts=1)

    def test_batches_that_overlap_pay_each_once(
        self, operator: Caller, validated: Callable[..., str], service: Desktops
    ) -> None:
        ids = [validated() for _ in range(6)]

        def one(number: int) -> int:
            body = {"poot_ids": ids[number:] + ids[:number], "wallet_address": WALLET}
            return int(operator.post("/poot/batch/payout", json=body).status_code)

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(one, range(6))) == [200] + [409] * 5
        books_balance(service, payouts=6)

    def test_twenty_at_once_from_submission_to_payout(self, operator: Caller, service: Desktops) -> None:
        def one(number: int) -> float:
            made = operator.post("/poot/submit", json=poot_like(node_id=f"n{number % 4}")).json()["poot_id"]
            assert operator.post(f"/poot/{made}/validate").status_code == 200
            return float(self.pay(operator, made).json()["amount"])

        with ThreadPoolExecutor(20) as pool:
            amounts = list(pool.map(one, range(20)))
        assert operator.get("/poot/statistics").json()["total_payout_amount"] == sum(amounts)
        books_balance(service, payouts=20)

    def test_the_lists(self, operator: Caller, caller: Callable[..., Caller], validated: Callable[..., str]) -> None:
        self.pay(operator, validated())
        found = caller("p", Role.PAYOUT_OFFICER).get(f"/payouts?wallet_address={WALLET}").json()
        assert found["total"] == 1 and found["payouts"][0]["amount"] == 0.25


class TestWithdrawals:
    @pytest.fixture
    def officer(self, caller: Callable[..., Caller]) -> Caller:
        return caller("officer", Role.PAYOUT_OFFICER)

    @pytest.fixture
    def rich(self, operator: Caller, admin: Caller, validated: Callable[..., str]) -> None:
        """A registered node has 2 x 9.59375 USDT booked, an unregistered one 9.59375."""
        node = operator.post("/nodes", json=node_like()).json()["node_id"]
        for name in (node, "stranger"):
            load(admin, name)
        ids = [validated(node_id=name) for name in (node, node, "stranger")]
        operator.post("/poot/batch/payout", json={"poot_ids": ids, "wallet_address": WALLET})

    def test_less_the_fee(self, rich: None, officer: Caller, service: Desktops) -> None:
        answer = officer.post("/payouts/withdrawals", json={"wallet_address": WALLET})
        assert answer.status_code == 201, answer.text
        found = answer.json()
        assert (found["gross_amount"], found["fee_amount"], found["net_amount"]) == (19.1875, 0.191875, 18.995625)
        assert found["status"] == "processed" and found["transaction_hash"] is None
        again = officer.post("/payouts/withdrawals", json={"wallet_address": WALLET})
        assert code(again) == (409, "PAYOUT_STATE")
        assert officer.get("/payouts/withdrawals").json()["total"] == 1
        books_balance(service, payouts=3)

    def test_at_once_one_is_paid(self, rich: None, officer: Caller, service: Desktops) -> None:
        body = {"wallet_address": WALLET}
        with ThreadPoolExecutor(5) as pool:
            codes = pool.map(lambda _: officer.post("/payouts/withdrawals", json=body).status_code, range(5))
        assert sorted(codes) == [201] + [409] * 4
        books_balance(service, payouts=3)

    def test_is_for_officers(self, rich: None, operator: Caller) -> None:
        assert operator.post("/payouts/withdrawals", json={"wallet_address": WALLET}).status_code == 403

    def test_too_little(self, officer: Caller) -> None:
        assert code(officer.post("/payouts/withdrawals", json={"wallet_address": "w"})) == (409, "PAYOUT_STATE")

    def test_the_days_limit(self, rich: None, officer: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("labyard.desktops.service.withdrawals.MOST", Decimal(9))
        answer = officer.post("/payouts/withdrawals", json={"wallet_address": WALLET})
        assert code(answer) == (429, "QUOTA_EXCEEDED")

    def test_with_a_settlement_that_fails_it_is_released(self, rich: None, service: Desktops) -> None:
        tries: list[str] = []

        class Down:
            def pay(self, wallet_address: str, amount: Decimal, reference: str) -> str:
                tries.append(reference)
                raise SettlementError("the bank is closed")

        class Up:
            def pay(self, wallet_address: str, amount: Decimal, reference: str) -> str:
                return f"hash-of-{reference}"

        officer = Principal("officer", frozenset({Role.PAYOUT_OFFICER}))
        failed = Withdrawals(service.shared, Down()).create(WALLET, officer)
        assert failed.status == "failed" and failed.attempts == 3 and len(set(tries)) == 1
        books_balance(service, payouts=3)
        done = Withdrawals(service.shared, Up()).create(WALLET, officer)
        assert done.status == "processed" and done.transaction_hash == f"hash-of-{done.withdrawal_id}"
        books_balance(service, payouts=3)


def books_balance(service: Desktops, payouts: int) -> None:
    """Each transfer and all of them add up to zero, and there are as many payouts as PoOT that were paid."""
    with service.database.read() as session:
        sums = session.execute(
            select(AccountEntry.transfer_id, func.sum(AccountEntry.amount)).group_by(AccountEntry.transfer_id)
        ).all()
        assert all(total == 0 for _, total in sums)
        rows = session.scalars(select(Payout)).all()
        booked = session.scalar(
            select(func.sum(AccountEntry.amount)).where(AccountEntry.kind == "payout", AccountEntry.amount > 0)
        )
    assert len(rows) == payouts == len({row.poot_id for row in rows})
    assert (booked or 0) == sum(row.amount for row in rows)
