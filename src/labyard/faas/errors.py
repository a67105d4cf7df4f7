"""Failures that a caller is told of."""

from __future__ import annotations


class FaasError(Exception):
    """A request cannot be fulfilled. `status` is the HTTP status of the answer; the text goes to the caller."""

    status = 500

    def __init__(self, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status or self.status


class BadRequest(FaasError):
    status = 400


class NotFound(FaasError):
    status = 404


class ImageError(BadRequest):
    """An archive cannot be used. The text is `Invalid Docker image: <reason>`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Invalid Docker image: {reason}")


class RuntimeFailure(FaasError):
    """runc or crun is not there or refused. The text is its own last line."""


class SettingsError(Exception):
    """A setting cannot be used. The text names the variable."""
