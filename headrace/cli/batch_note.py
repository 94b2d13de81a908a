"""What `headrace batch run` must remember to go on after it was killed: a small file beside its output.

    begun ──► input uploaded ──► batch created ──► ended, output written ──► (removed)

Each step is noted before the next. What creates something on the server goes under a key that was noted first, so doing it again after a
crash finds what the first attempt made.
"""

import secrets
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from headrace.errors import HeadraceError
from headrace.files.sync import sync_file, sync_folder
from headrace.request import Endpoint


class _Noted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Order(_Noted):
    """What the run is of: with the same input, options and server it is the same run."""

    input_sha256: str
    endpoint: Endpoint
    model: str | None
    max_tokens: int | None
    temperature: float | None
    url: str | None
    """A running server; None: one of its own, on `data_dir`."""
    data_dir: str | None

    def differences(self, other: "Order") -> list[str]:
        """What is not the same, in words, and what it is here."""
        words = {
            "input_sha256": "the input",
            "endpoint": "--endpoint",
            "model": "--model",
            "max_tokens": "--max-tokens",
            "temperature": "--temperature",
            "url": "the server",
            "data_dir": "--data-dir",
        }
        differing = [name for name in words if getattr(self, name) != getattr(other, name)]
        if "url" in differing and "data_dir" in differing:  # one server is running, the other its own: that says it all
            differing.remove("data_dir")
        return [words[name] + self._was(name) for name in differing]

    def _was(self, name: str) -> str:
        if name == "input_sha256":
            return ""
        if (value := getattr(self, name)) is None:
            return " (then one of its own)" if name == "url" else " (then not given)"
        return f" (then {value})"


class Note(_Noted):
    v: Literal[1] = 1
    order: Order
    key: str
    """Idempotency key of all that the run creates."""
    model: str | None = None
    """The model that was filled into lines without one."""
    input_file_id: str | None = None
    batch_id: str | None = None
    ended: dict[str, Any] | None = None
    """The batch object at its end, when its results are where they belong: all that is left is to clean up."""

    @property
    def worth_keeping(self) -> bool:
        """Something that it knows of would be lost without it."""
        return self.input_file_id is not None and self.ended is None


def read_note(path: Path) -> Note | None:
    """None if there is none. Raises HeadraceError for one that cannot be read."""
    try:
        return Note.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no note of this version"
        raise HeadraceError(f"cannot read {path} ({why}); --restart forgets it and begins anew") from None


class NoteFile:
    """A note, and where it is kept. Every change is on the disk before anything is built on it."""

    def __init__(self, path: Path, note: Note) -> None:
        self._path = path
        self.note = note

    @classmethod
    def begin(cls, path: Path, order: Order) -> "NoteFile":
        """Raises HeadraceError."""
        write_note(path, note := Note(order=order, key=secrets.token_hex(16)))
        return cls(path, note)

    def add(self, **known: Any) -> None:
        """Fields of the note that have become known. Raises HeadraceError."""
        write_note(self._path, note := self.note.model_copy(update=known))
        self.note = note


def write_note(path: Path, note: Note) -> None:
    """Whole or not at all, and on the disk before this returns. Raises HeadraceError."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        scratch.write_text(note.model_dump_json(indent=2) + "\n")
        sync_file(scratch)
        scratch.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise HeadraceError(f"cannot write {path} ({error.strerror})") from None
