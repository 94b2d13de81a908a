"""The keys file as a running process watches it: a key that is taken out of it is refused a second later, without a restart."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from headrace.errors import SettingsError
from headrace.keys import read_keys

logger = logging.getLogger(__name__)

LOOK_S = 1.0

_Stamp = tuple[int, int, int] | None


class KeysFile:
    """Answers from memory; looks at the file at most once in LOOK_S, and reads it if it has changed.

    A file that has gone, or that somebody has broken, leaves the keys as they were: half an edit must not lock everybody out.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises SettingsError as `read_keys`."""
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        # Before the file is read: a change in between shows at the next look.
        self._stamp = _stamp(path)
        self._keys = read_keys(path)

    def tenant_of(self, key: str) -> str | None:
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return self._keys.tenant_of(key)

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            before, self._keys = self._keys.tenants, read_keys(self._path)
        except SettingsError as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            now = self._keys.tenants
            changed = _named(now - before), _named(before - now)
            logger.info("keys read again, count=%d tenants added=%s removed=%s", len(self._keys), *changed)


def _named(tenants: Iterable[str]) -> str:
    return ",".join(sorted(tenants)) or "-"  # no tenant is called that


def _stamp(path: Path) -> _Stamp:
    """Changes whenever the file does, whether it is written in place, replaced or behind a link that is turned; None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
