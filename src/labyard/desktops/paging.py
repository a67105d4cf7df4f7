"""Lists: `limit` and `offset` the same everywhere (contract section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Page:
    limit: int
    offset: int

    def envelope(self, name: str, items: Sequence[Any], total: int) -> dict[str, Any]:
        return {
            name: items,
            "total": total,
            "limit": self.limit,
            "offset": self.offset,
            "has_next": self.offset + len(items) < total,
            "has_previous": self.offset > 0,
        }


async def _page(
    limit: Annotated[int, Query(ge=1, le=100)] = 50, offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0
) -> Page:
    return Page(limit, offset)


Paging = Annotated[Page, Depends(_page)]


def fetch(session: Session, query: Select[Any], page: Page) -> tuple[list[Any], int]:
    """The rows of one page of an ordered query, and the number of all its rows."""
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery()))
    return list(session.scalars(query.offset(page.offset).limit(page.limit))), int(total or 0)
