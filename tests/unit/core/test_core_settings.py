"""Settings that every service has (contract section 1)."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from labyard.core.settings import DEFAULT_PASSWORDS, ServiceSettings, networks


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LAB_", extra="ignore")


PRODUCTION = {"environment": "production", "secret_key": "k" * 32, "admin_password": "Correct-horse-9"}


class TestDevelopment:
    def test_has_defaults(self) -> None:
        settings = Settings()
        assert settings.admin_password.get_secret_value() == "admin123"
        assert len(settings.secret_key.get_secret_value()) >= 32
        assert (settings.http_port, settings.access_token_minutes, settings.refresh_token_days) == (8000, 60, 7)

    def test_each_start_has_another_key(self) -> None:
        assert Settings().secret_key != Settings().secret_key

    def test_what_is_set_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAB_ADMIN_PASSWORD", "Another-1")
        monkeypatch.setenv("LAB_HTTP_PORT", "9000")
        assert (Settings().admin_password.get_secret_value(), Settings().http_port) == ("Another-1", 9000)

    def test_secrets_are_not_shown(self) -> None:
        assert "admin123" not in repr(Settings())


class TestProduction:
    def test_starts_with_key_and_password(self) -> None:
        assert not Settings(**PRODUCTION).in_development

    @pytest.mark.parametrize("key", ["", "k" * 31])
    def test_refuses_to_start_without_a_key(self, key: str) -> None:
        with pytest.raises(ValidationError, match="LAB_SECRET_KEY must have at least 32 characters"):
            Settings(**{**PRODUCTION, "secret_key": key})

    @pytest.mark.parametrize("password", ["", *sorted(DEFAULT_PASSWORDS)])
    def test_refuses_to_start_with_a_default_password(self, password: str) -> None:
        with pytest.raises(ValidationError, match="LAB_ADMIN_PASSWORD must be set"):
            Settings(**{**PRODUCTION, "admin_password": password})


@pytest.mark.parametrize(
    "bad",
    [{"http_port": 0}, {"http_port": 65536}, {"access_token_minutes": 0}, {"refresh_token_days": 0},
     {"log_level": "loud"}, {"trusted_proxies": "10.0.0.1,nonsense"}],
)  # fmt: skip
def test_bad_values_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**bad)


def test_networks() -> None:
    assert [str(network) for network in networks(" 10.0.0.1, 10.1.0.0/16 ,fd00::1,")] == [
        "10.0.0.1/32", "10.1.0.0/16", "fd00::1/128",
    ]  # fmt: skip
    assert networks("") == []


@pytest.mark.parametrize("url", ["mysql://db/x", "postgres://db/x", "sqlite://", "netboot.db"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must begin with postgresql:// or sqlite:///"):
        ServiceSettings(database_url=url)


def test_both_databases_are_taken() -> None:
    for url in ("", "sqlite:////var/lib/x.db", "postgresql://user:word@db/x", "postgresql+psycopg://db/x"):
        assert ServiceSettings(database_url=url).database_url == url
