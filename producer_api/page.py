"""One page of a list."""

from collections.abc import Sequence
from typing import Any


def page(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The list object. The next page starts behind `last_id`."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
