"""Who calls."""

from typing import Annotated

from fastapi import Depends


def tenant() -> str:
    """The tenant on whose behalf a request runs; every call of the queue names it."""
    return "default"


Tenant = Annotated[str, Depends(tenant)]
