"""Cursor pages: a limited number of rows after a named one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import ColumnElement, Connection, Select

from deepwell.errors import InvalidRequest

__all__ = ["Order", "Page", "page_of", "page_of_list"]

Order = Literal["asc", "desc"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows of one page, and whether more follow."""

    data: Sequence[T]
    has_more: bool = False


def page_of(
    connection: Connection,
    query: Select[*tuple[Any, ...]],
    position: ColumnElement[int],
    id: ColumnElement[str],
    *,
    after: str | None,
    limit: int,
    order: Order,
) -> Page[Any]:
    """Returns rows of `query` in rising or falling order of `position`, after the one whose `id` is `after`.

    Raises:
        InvalidRequest: no row has that id.
    """
    if after is not None:
        cursor = connection.execute(query.with_only_columns(position).where(id == after)).scalar_one_or_none()
        if cursor is None:
            raise _not_in_list(after)
        query = query.where(position > cursor if order == "asc" else position < cursor)
    rows = connection.execute(
        query.order_by(position.asc() if order == "asc" else position.desc()).limit(limit + 1)
    ).all()
    return Page(rows[:limit], len(rows) > limit)


def page_of_list(
    rows: Sequence[T], id_of: Callable[[T], str], *, after: str | None, limit: int, order: Order
) -> Page[T]:
    """Returns rows of a whole list, which is in rising order, as `page_of` does.

    Raises:
        InvalidRequest: no row has the id `after`.
    """
    turned = list(rows if order == "asc" else reversed(rows))
    begin = 0
    if after is not None:
        begin = next((place for place, row in enumerate(turned, 1) if id_of(row) == after), 0)
        if not begin:
            raise _not_in_list(after)
    return Page(turned[begin : begin + limit], begin + limit < len(turned))


def _not_in_list(after: str) -> InvalidRequest:
    return InvalidRequest(
        f"'after' names {after!r}, which is not in this list",
        fix="use the last id of the page before",
        param="after",
    )
