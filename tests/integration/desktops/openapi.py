"""Whether answers are what the published OpenAPI document says."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from jsonschema import Draft202012Validator


class Document:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._validators: dict[tuple[str, str, str], Draft202012Validator] = {}

    @cached_property
    def _routes(self) -> list[tuple[re.Pattern[str], str]]:
        """Fixed words before ids, as the service looks for them."""
        paths = sorted(self._document["paths"], key=lambda path: [part[:1] == "{" for part in path.split("/")])
        return [(re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), path) for path in paths]

    def check(self, method: str, path: str, answer: Any) -> None:
        """AssertionError when the status is not in the document, or the body is not as it says."""
        template = next((path_ for regex, path_ in self._routes if regex.fullmatch(path.rstrip("/"))), None)
        operation = self._document["paths"].get(template, {}).get(method.lower())
        if operation is None:  # no such route
            assert answer.status_code in (401, 404, 405), (method, path, answer.status_code)
            return
        described = operation["responses"].get(str(answer.status_code))
        assert described is not None, f"{method} {template} does not say that it answers {answer.status_code}"
        content = described.get("content", {}).get("application/json")
        if content is None or "json" not in answer.headers.get("content-type", ""):
            return
        key = (method, str(template), str(answer.status_code))
        if key not in self._validators:
            schema = {**content["schema"], "components": self._document["components"]}
            self._validators[key] = Draft202012Validator(schema)
        errors = list(self._validators[key].iter_errors(answer.json()))
        assert not errors, f"{method} {template}: {errors[0].message} at {errors[0].json_path}"
