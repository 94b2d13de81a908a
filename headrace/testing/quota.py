"""A Valkey server whose files may grow to a few kilobytes only: to the server that is a full disk."""

import shlex
from pathlib import Path

import psutil

from headrace.embedded import EmbeddedValkey, find_binary

_BLOCK = 512

# The signal that goes with the limit is ignored: a full disk sends none, it fails the write.
_SCRIPT = """#!/bin/sh
trap '' XFSZ
ulimit -S -f "$(cat {blocks})"
exec {server} "$@"
"""


class QuotaValkey(EmbeddedValkey):
    """On `folder`; no file of the server grows beyond `quota` bytes until `lift`."""

    def __init__(self, folder: Path, quota: int) -> None:
        folder.mkdir(parents=True)
        self._blocks = folder / "blocks"
        self._blocks.write_text(str(quota // _BLOCK))
        script = folder / "valkey-server"
        script.write_text(_SCRIPT.format(blocks=shlex.quote(str(self._blocks)), server=shlex.quote(str(find_binary()))))
        script.chmod(0o700)
        super().__init__(folder / "data", binary=script)

    def lift(self) -> None:
        """Room again, for the server that runs and for those started from now on."""
        self._blocks.write_text("unlimited")
        if self.process.poll() is None:
            psutil.Process(self.process.pid).rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
