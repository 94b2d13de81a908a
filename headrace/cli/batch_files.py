"""The files of a `headrace batch run`: what it makes, and what lies beside it until it is done.

answers.jsonl               the answers, at the end, by a rename
answers.errors.jsonl        the lines that failed, if any did
answers.jsonl.batch.json    the note that the same command goes on from
answers.jsonl.part          what is being fetched; its lock says that a run, or its server, lives
answers.errors.jsonl.part
answers.jsonl.headrace/     the data of a server of its own
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import HeadraceError
from headrace.files.sync import sync_file, sync_folder

STOPPING_S = 90.0
"""How long the server of a run that was killed may take to stop."""
_LOOK_S = 0.1
_OURS = ("files", "logs", "valkey")
"""What a server keeps in its data folder."""


@dataclass(frozen=True, slots=True)
class BatchFiles:
    out: Path

    @property
    def errors(self) -> Path:
        return self.out.with_name(f"{self.out.stem}.errors{self.out.suffix}")

    @property
    def note(self) -> Path:
        return self._beside(".batch.json")

    @property
    def part(self) -> Path:
        return self._beside(".part")

    @property
    def errors_part(self) -> Path:
        return self.errors.with_name(self.errors.name + ".part")

    @property
    def data_dir(self) -> Path:
        """Where a server of the run's own keeps its data unless told otherwise."""
        return self._beside(".headrace")

    def check(self, source: str) -> None:
        """Raises HeadraceError if the output cannot be written, or would overwrite the input `source`."""
        if str(self.out) == "-":
            raise HeadraceError("the output must be a file: what a run resumes from lies beside it")
        if self.out.is_dir():
            raise HeadraceError(f"the output {self.out} is a folder; name a file in it")
        if self.out.exists() and not self.out.is_file():
            raise HeadraceError(f"the output {self.out} is no ordinary file, and would be replaced by one; choose another with -o")
        if not self.out.parent.is_dir():
            raise HeadraceError(f"there is no folder {self.out.parent} for the output; create it first")
        for made in (self.out, self.errors, self.part, self.errors_part, self.note):
            if made.exists() and Path(source).exists() and made.samefile(source):
                raise HeadraceError(f"the output would overwrite the input {source}; choose another with -o")

    def check_free(self) -> None:
        """Raises HeadraceError if a run would replace what it has not made."""
        for made in (self.out, self.errors):
            if made.exists() and made.stat().st_size:
                raise HeadraceError(f"{made} exists; add --restart to replace it, or choose another file with -o")

    @contextlib.contextmanager
    def lock(self, waiting: Callable[[str], None]) -> Iterator[int]:
        """Hold the output against other runs. The descriptor is for a server of its own to inherit: when the run is killed, the lock is
        free only once that server has stopped. Raises HeadraceError."""
        descriptor = self._locked(waiting)
        try:
            yield descriptor
        finally:
            # With a note it stays: the server may still be stopping, and the next run must see its lock.
            if not self.note.exists():
                self.part.unlink(missing_ok=True)
            os.close(descriptor)

    def publish(self, read_ns: int) -> None:
        """Put what was fetched in its place, dated to when the input was read (Unix nanoseconds). Repeating it after a crash needs it
        fetched again. Raises HeadraceError."""
        try:
            os.utime(self.part, ns=(read_ns, read_ns))
            sync_file(self.part)
            sync_file(self.errors_part)
            if self.errors_part.stat().st_size:
                self.errors_part.rename(self.errors)
            else:
                self.errors.unlink(missing_ok=True)  # an earlier run's
                self.errors_part.unlink()
            self.part.rename(self.out)
            sync_folder(self.out.parent)
        except OSError as error:
            raise HeadraceError(f"cannot write {self.out} ({error.strerror}); the same command tries again") from None

    def forget(self) -> None:
        """Remove what a run resumes from. Killed on the way, the same command does it again: the note goes last. Raises HeadraceError."""
        try:
            for name in _OURS:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(self.data_dir / name)
            with contextlib.suppress(OSError):  # it never was, or somebody keeps things of his own in it
                self.data_dir.rmdir()
            self.errors_part.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)
        except OSError as error:
            raise HeadraceError(f"cannot remove {error.filename} ({error.strerror}); {self.out} itself is not concerned") from None

    def _locked(self, waiting: Callable[[str], None]) -> int:
        give_up_at = time.monotonic() + STOPPING_S
        told = False
        while (descriptor := self._try_lock()) is None:
            if time.monotonic() > give_up_at:
                raise HeadraceError(f"another `headrace batch run` writes {self.out}; wait for it, or stop it first")
            if not told:
                waiting(f"another run, or the server it has left, still holds {self.out.name}; waiting for it to stop")
                told = True
            time.sleep(_LOOK_S)
        return descriptor

    def _try_lock(self) -> int | None:
        try:
            descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise HeadraceError(f"cannot write beside {self.out} ({error.strerror}); choose another folder with -o") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have renamed or removed the file since it was opened: then the lock is one on nothing.
            if os.path.samestat(os.fstat(descriptor), self.part.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def _beside(self, suffix: str) -> Path:
        return self.out.with_name(self.out.name + suffix)
