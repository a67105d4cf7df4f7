"""The client's types and the service's schemas have the same fields. They are two: a client has no pydantic."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from pydantic import BaseModel

from labyard.vms import answers, cli_types, schemas


def may_be_null(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


@pytest.mark.parametrize(
    ("answer", "schema"),
    [
        (answers.Template, schemas.TemplateAnswer),
        (answers.Vm, schemas.VmAnswer),
        (answers.Disk, schemas.DiskAnswer),
        (answers.Metadata, schemas.MetadataAnswer),
        (answers.Console, schemas.ConsoleAnswer),
        (answers.Lease, schemas.LeaseAnswer),
        (answers.Issue, schemas.IssueAnswer),
        (answers.Check, schemas.CheckAnswer),
        (answers.Repair, schemas.RepairAnswer),
    ],
)
def test_they_have_the_same_fields(answer: type, schema: type[BaseModel]) -> None:
    ours = {name: may_be_null(hint) for name, hint in typing.get_type_hints(answer).items()}
    theirs = {name: may_be_null(field.annotation) for name, field in schema.model_fields.items()}
    assert ours == theirs


def test_states_are_those_of_the_service() -> None:
    assert {str(one) for one in cli_types.State} == {str(one) for one in typing.get_args(schemas.VmStateFilter)}
