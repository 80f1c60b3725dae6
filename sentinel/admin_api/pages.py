"""Lists in pages: `limit` and `after` in the query, `has_more` and `next` in the answer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sentinel.errors import BadInput

LIMIT_MAX = 200
LIMIT_DEFAULT = 50
PAGING = ("limit", "after")


def read_limit(query: Mapping[str, str]) -> int:
    """How many items a page has. Raises BadInput."""
    limit = query.get("limit", str(LIMIT_DEFAULT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= LIMIT_MAX):
        raise BadInput(f"limit must be a whole number from 1 to {LIMIT_MAX}.")
    return int(limit)


def page(found: Sequence[dict[str, Any]], limit: int, cursor: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """The first `limit` items of what was found, of which there may be one more; `next` is the cursor to go on from."""
    shown = found[:limit]
    more = len(found) > limit
    return {"object": "list", "data": list(shown), "has_more": more, "next": cursor(shown[-1]) if more else None}


def slice_after(
    items: Sequence[dict[str, Any]], query: Mapping[str, str], cursor: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """The page of a list that is all in memory. Raises BadInput for a cursor that is none of the list's."""
    limit, after = read_limit(query), query.get("after")
    if after is None:
        return page(items, limit, cursor)
    for place, item in enumerate(items):
        if cursor(item) == after:
            return page(items[place + 1 :], limit, cursor)
    raise BadInput("after is not the `next` of a page of this list, or what it named is gone.")
