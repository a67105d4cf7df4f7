"""Prometheus metrics: one registry per app, and what every service counts of its requests (contract section 5.8)."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

# Methods that others invent must not make new time series.
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Metrics:
    """`prefix` begins the name of every metric. A service registers its own with `registry`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.registry = CollectorRegistry()
        self._requests = Counter(
            f"{prefix}_http_requests_total",
            "Requests answered",
            ["method", "path", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{prefix}_http_request_duration_seconds",
            "Time from request to the end of the answer",
            ["method", "path"],
            registry=self.registry,
        )

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request. `path` is the route's template, never the path itself."""
        method = method if method in _METHODS else "OTHER"
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(method, path).observe(seconds)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["health"])

        @router.get("/metrics", response_class=Response, summary="Metrics in Prometheus' text format")
        def metrics() -> Response:
            return self.answer()

        return router

    def answer(self) -> Response:
        """All metrics, in Prometheus' text format."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
