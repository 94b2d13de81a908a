"""The disk that files are kept on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, ENOSPC

from producer_api.envelope import HttpError

logger = logging.getLogger(__name__)

_FULL = (ENOSPC, EDQUOT, EFBIG)


@contextmanager
def room_on_disk() -> Iterator[None]:
    """Around writes of a file. Raises 507 in place of an OSError that says there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        logger.error("no room for a file that is being uploaded: %s", error.strerror)
        raise HttpError(
            507, f"The server has no room for the file ({error.strerror}); nothing of it was kept.", code="insufficient_storage"
        ) from None
