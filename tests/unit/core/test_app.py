"""What every service answers alike: paths, roles, errors, headers (contract sections 1.3 and 4)."""

from __future__ import annotations

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from labyard.core.app import create_app
from labyard.core.auth import Auth
from labyard.core.database import Database
from labyard.core.settings import ServiceSettings

from .conftest import SERVICE, Login, MakeApp


class TestPaths:
    @pytest.mark.parametrize("path", ["/api/v1/things", "/api/v1/things/", "/things", "/things/"])
    def test_four_forms_one_answer(self, client: TestClient, login: Login, path: str) -> None:
        answer = client.get(path, headers=login(), follow_redirects=False)
        assert (answer.status_code, answer.json()["who"]) == (200, "admin")

    def test_what_is_not_rooted_is_under_the_api_only(self, client: TestClient) -> None:
        assert client.get("/api/v1/ipxe/script/abc/").status_code == 200
        assert client.get("/ipxe/script/abc").status_code == 404

    @pytest.mark.parametrize(
        "path", ["/", "/nothing", "/api/v1", "/things//", "/api/v1/thingsx", "/%2e%2e/things", "/things/%00"]
    )
    def test_unknown_is_404(self, client: TestClient, path: str) -> None:
        answer = client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")

    def test_a_wrong_method_is_405(self, client: TestClient) -> None:
        answer = client.patch("/things")
        assert answer.status_code == 405
        assert "PATCH" in answer.json()["detail"]
        assert set(answer.headers["Allow"].replace(" ", "").split(",")) <= {"GET", "POST"}

    def test_a_route_with_a_final_slash_is_refused_at_once(
        self, settings: ServiceSettings, database: Database, auth: Auth
    ) -> None:
        router = APIRouter(prefix="/x")
        router.get("/")(lambda: None)
        with pytest.raises(ValueError, match="declare it without"):
            create_app(SERVICE, settings, database, auth, [router])


class TestRoles:
    @pytest.mark.parametrize(
        ("role", "allowed"), [("viewer", {"GET"}), ("operator", {"GET", "POST"}), ("admin", {"GET", "POST", "DELETE"})]
    )
    def test_each_may_what_the_lesser_may(self, client: TestClient, user, role: str, allowed: set[str]) -> None:
        headers = user(role)
        answers = {
            "GET": client.get("/things", headers=headers),
            "POST": client.post("/things", json={"name": "x"}, headers=headers),
            "DELETE": client.delete("/things/1", headers=headers),
        }
        assert {method for method, answer in answers.items() if answer.status_code < 300} == allowed
        texts = {"POST": "Operator privileges required", "DELETE": "Admin privileges required"}
        for method in set(answers) - allowed:
            assert (answers[method].status_code, answers[method].json()["detail"]) == (403, texts[method])

    def test_role_comes_before_bad_input(self, client: TestClient, user) -> None:
        assert client.post("/things", json={}, headers=user("viewer")).status_code == 403
        assert client.post("/things", json={}).status_code == 401

    def test_a_refusal_is_on_record(self, client: TestClient, user, audit_log) -> None:
        client.delete("/things/7", headers={**user("viewer"), "X-Request-ID": "req-1"})
        row = audit_log()[-1]
        assert (row.action, row.username, row.status_code, row.request_id, row.severity) == (
            "permission_denied", "a-viewer", 403, "req-1", "warning",
        )  # fmt: skip
        assert "DELETE /api/v1/things/7" in row.message

    def test_the_route_knows_who_asks(self, client: TestClient, user) -> None:
        answer = client.get("/things", headers=user("viewer")).json()
        assert (answer["caller"], answer["address"]) == ("a-viewer", "testclient")


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("GET", "/nothing", 404, "not_found"),
            ("PATCH", "/things", 405, "method_not_allowed"),
            ("GET", "/things", 401, "authentication_error"),
            ("GET", "/things/x/broken", 422, "validation_error"),
            ("GET", "/things/1/broken", 500, "internal_error"),
            ("GET", "/things/1/failed", 500, "dhcp_error"),
        ],
    )
    def test_have_one_shape(self, client: TestClient, method: str, path: str, status: int, code: str) -> None:
        answer = client.request(method, path)
        body = answer.json()
        assert (answer.status_code, body["error"]) == (status, code)
        assert set(body) == {"error", "detail", "timestamp", "request_id"}
        assert isinstance(body["timestamp"], float)
        assert body["request_id"] == answer.headers["X-Request-ID"] != ""
        assert answer.headers["Content-Type"] == "application/json"

    def test_an_unexpected_one_tells_nothing(self, client: TestClient) -> None:
        answer = client.get("/things/1/broken")
        assert "swordfish" not in answer.text and "RuntimeError" not in answer.text
        assert answer.headers["X-Request-ID"] in answer.json()["detail"]

    def test_a_step_is_named(self, client: TestClient) -> None:
        assert client.get("/things/1/failed").json()["detail"] == "step dhcp: Kea did not answer"

    def test_fields_are_named_and_secrets_are_not_repeated(self, client: TestClient, login: Login) -> None:
        body = {"name": ["n"], "chap_secret": {"deep": "swordfish"}, "nested": {"token": "swordfish"}}
        answer = client.post("/things", json=body, headers=login())
        details = {tuple(item["loc"]): item for item in answer.json()["detail"]}
        assert details["body", "name"]["input"] == ["n"]
        assert details["body", "chap_secret"]["input"] == "********"
        assert "swordfish" not in answer.text

    def test_half_a_surrogate_pair_is_422(self, client: TestClient, login: Login) -> None:
        headers = {**login(), "Content-Type": "application/json"}
        content = b'{"name": 1, "x": "\\ud800"}'
        assert client.post("/things", content=content, headers=headers).status_code == 422

    def test_a_long_value_is_cut(self, client: TestClient, login: Login) -> None:
        answer = client.post("/things", json={"name": [["x" * 100_000] * 2] * 3}, headers=login())
        assert answer.status_code == 422
        assert len(answer.text) < 5000


class TestBodies:
    def test_too_large_is_413(self, client: TestClient) -> None:
        answer = client.post("/auth/login", content=b"x" * (1024 * 1024 + 1))
        assert (answer.status_code, answer.json()["error"]) == (413, "content_too_large")

    def test_too_large_without_a_length_is_413(self, client: TestClient) -> None:
        pieces = (b" " * 65536 for _ in range(40))
        answer = client.post("/auth/login", content=pieces, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413

    def test_a_route_may_take_more(self, client: TestClient) -> None:
        assert client.post("/things/upload", json={"x": "y" * 1_500_000}).status_code == 200
        assert client.post("/things/upload", json={"x": "y" * 2_500_000}).status_code == 413


class TestRequestId:
    def test_a_sane_one_is_kept(self, client: TestClient) -> None:
        answer = client.get("/health", headers={"X-Request-ID": "Abc-1.2_3"})
        assert answer.headers["X-Request-ID"] == "Abc-1.2_3"

    @pytest.mark.parametrize("value", ["", "a b", "x" * 65, "a\tb", '"><script>'])
    def test_any_other_is_replaced(self, client: TestClient, value: str) -> None:
        answer = client.get("/nothing", headers={"X-Request-ID": value})
        assert answer.headers["X-Request-ID"] not in ("", value)
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]

    def test_differs_from_request_to_request(self, client: TestClient) -> None:
        assert len({client.get("/health").headers["X-Request-ID"] for _ in range(5)}) == 5


class TestProxies:
    @pytest.mark.parametrize(
        ("trusted", "peer", "forwarded", "address"),
        [
            ("", "10.0.0.1", "6.6.6.6", "10.0.0.1"),
            ("10.0.0.9", "10.0.0.1", "6.6.6.6", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1", "7.7.7.7", "7.7.7.7"),
            ("10.0.0.1", "10.0.0.1", "6.6.6.6, 7.7.7.7", "7.7.7.7"),
            ("10.0.0.0/24", "10.0.0.1", "6.6.6.6, 7.7.7.7, 10.0.0.2", "7.7.7.7"),
            ("10.0.0.1", "10.0.0.1", "nonsense", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1, fd00::1", "fd00::1", "fd00::2", "fd00::2"),
        ],
    )
    def test_count_when_they_are_trusted(
        self, make_app: MakeApp, trusted: str, peer: str, forwarded: str, address: str
    ) -> None:
        with TestClient(make_app(trusted_proxies=trusted), client=(peer, 1)) as client:
            token = client.post("/auth/login", json={"username": "admin", "password": "admin123"}).json()
            headers = {"Authorization": f"Bearer {token['access_token']}", "X-Forwarded-For": forwarded}
            assert client.get("/things", headers=headers).json()["address"] == address


class TestDocs:
    def test_need_nothing_from_the_internet(self, client: TestClient) -> None:
        for page in ("/docs", "/redoc"):
            answer = client.get(page)
            assert answer.status_code == 200
            assert "https://" not in answer.text and "//cdn" not in answer.text
        for file in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"):
            assert client.get(f"/static-offline-docs/{file}").status_code == 200

    def test_authorize_has_the_bearer_scheme(self, client: TestClient) -> None:
        schema = client.get("/openapi.json").json()
        assert schema["info"]["title"] == "Netboot"
        assert [scheme["scheme"] for scheme in schema["components"]["securitySchemes"].values()] == ["bearer"]
        assert schema["paths"]["/api/v1/auth/me"]["get"]["security"]
        assert "security" not in schema["paths"]["/api/v1/auth/login"]["post"]
        assert all(path.startswith("/api/v1/") for path in schema["paths"])


def test_start_and_stop_hooks_run_in_order_and_all_stop_hooks_run(
    settings: ServiceSettings, database: Database, auth: Auth
) -> None:
    ran: list[str] = []

    def fail() -> None:
        ran.append("fail")
        raise RuntimeError("no")

    app = create_app(
        SERVICE, settings, database, auth, [],
        on_start=[lambda: ran.append("first"), lambda: ran.append("second")],
        on_stop=[fail, lambda: ran.append("last")],
    )  # fmt: skip
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
        assert ran == ["first", "second"]
    assert ran == ["first", "second", "fail", "last"]
