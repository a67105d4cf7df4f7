"""The client's types and the service's schemas have the same fields. They are two: a client has no pydantic."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from pydantic import BaseModel

from labyard.netboot import answers, schemas
from labyard.netboot.api.images import ImageAnswer


def may_be_null(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


@pytest.mark.parametrize(
    ("answer", "schema"),
    [
        (answers.Machine, schemas.MachineAnswer),
        (answers.Image, ImageAnswer),
        (answers.Session, schemas.SessionAnswer),
        (answers.Event, schemas.BootEventAnswer),
    ],
)
def test_they_have_the_same_fields(answer: type, schema: type[BaseModel]) -> None:
    ours = {name: may_be_null(hint) for name, hint in typing.get_type_hints(answer).items()}
    theirs = {name: may_be_null(field.annotation) for name, field in schema.model_fields.items()}
    assert ours == theirs
