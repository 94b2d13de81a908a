"""The disk that files are kept on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, ENOSPC

from producer_api.envelope import HttpError, unavailable

logger = logging.getLogger(__name__)

_FULL = (ENOSPC, EDQUOT, EFBIG)
_RETRY_S = 10


@contextmanager
def writing_files() -> Iterator[None]:
    """Around writes of a file. An OSError becomes 507 if the disk is full, else 503: neither is a fault of the request, nor of ours."""
    try:
        yield
    except OSError as error:
        logger.error("a file that is being uploaded cannot be written: %s", error)
        why = f"The server cannot store the file ({error.strerror}); nothing of it was kept."
        if error.errno in _FULL:
            raise HttpError(507, why, code="insufficient_storage") from None
        raise unavailable(why, code="storage_unavailable", seconds=_RETRY_S) from None
