"""Lists: newest first, `skip` and `limit` the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from labyard.core.fields import NoNul


@dataclass(frozen=True)
class Page:
    skip: int
    limit: int

    def envelope(self, name: str, items: Sequence[Any], total: int) -> dict[str, Any]:
        return {name: items, "total": total, "page": self.skip // self.limit + 1, "per_page": self.limit}


# The bound on skip: a number that no database takes would end as 500.
def _page(
    skip: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Page:
    return Page(skip, limit)


Paging = Annotated[Page, Depends(_page)]
# Longer than any field that is searched. SQLite refuses a pattern of 50,000 bytes, and that would end as 500.
Search = Annotated[str | None, Query(max_length=255), NoNul]


def fetch(session: Session, query: Select[Any], page: Page) -> tuple[list[Any], int]:
    """The rows of one page of an ordered query, and the number of all its rows."""
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery()))
    return list(session.scalars(query.offset(page.skip).limit(page.limit))), int(total or 0)
