"""What the clients of all services begin with."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, Self, TypeVar

from labyard.client.http import Http

Connected = TypeVar("Connected", bound=Http)


class ServiceClient(Generic[Connected]):
    """A client over `http`, which is closed at the end of a `with`."""

    def __init__(self, http: Connected) -> None:
        self._http = http
        self.url = http.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
