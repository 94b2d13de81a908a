"""`headrace batch run`: a file of requests in, a file of answers out, through whatever is killed in between.

    lock OUT ─► note ─► server ─► upload ─► create ─► watch ─► fetch ─► stop the server ─► OUT by rename ─► clean up

Each stage leaves what the next run needs to begin behind it. Until the end the results are kept by the server, not here.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from headrace.batch import BATCH_ENDED, COMPLETION_WINDOW, BatchStatus
from headrace.cli.api_client import command
from headrace.cli.batch_done import answered
from headrace.cli.batch_files import BatchFiles
from headrace.cli.batch_input import STDIN, Fill, Survey, open_input, survey, upload
from headrace.cli.batch_note import Note, NoteFile, Order, read_note
from headrace.cli.batch_view import BatchView, progress_of
from headrace.cli.own_server import OwnServer
from headrace.cli.patient_api import PatientApi, Refused, StayedAway
from headrace.errors import HeadraceError
from headrace.request import Endpoint

ALL_ANSWERED = 0
NOT_DONE = 1
SOME_FAILED = 3
INTERRUPTED = 130
POLL_S = 0.5
_FIRST_POLL_S = 0.05
"""A handful of lines is done in no time: the pauses between two looks grow from this to POLL_S."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """The command line. `url` None: a server of its own, on `data_dir` or on a folder beside the output that goes when all is done."""

    source: str
    out: Path
    url: str | None
    data_dir: Path | None
    endpoint: Endpoint | None
    model: str | None
    max_tokens: int | None
    temperature: float | None
    restart: bool

    def order(self, surveyed: Survey) -> Order:
        return Order(
            input_sha256=surveyed.sha256,
            endpoint=self.endpoint or surveyed.endpoint or Endpoint.CHAT,
            model=self.model,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            url=self.url,
            data_dir=None if self.data_dir is None else str(self.data_dir.resolve()),
        )


def run(wish: Wish, view: BatchView) -> int:
    """Returns the exit code. Raises HeadraceError: the same command then goes on, unless the server refused the whole batch."""
    files = BatchFiles(wish.out)
    files.check(wish.source)
    with files.lock(view.say) as lock, open_input(wish.source, wish.out.parent) as source:
        read_ns = time.time_ns()
        surveyed = survey(source)
        if not (wish.restart or files.note.exists()) and (code := _done_before(files, source, surveyed, view)) is not None:
            return code
        order = wish.order(surveyed)
        notes, abandoned = _begun(files, order, restart=wish.restart)
        if (batch := notes.note.ended) is None:
            try:
                with _server(order, files, lock, view) as api:
                    if abandoned is not None:
                        _take_back(api, abandoned, order, view)
                    batch = BatchRun(api, notes, view).ended(_name(wish.source), source, surveyed)
                    _fetch(api, batch, files, view)
            except Refused as refusal:
                files.forget()  # the server has nothing of it
                raise HeadraceError(f"the server refuses it: {refusal}") from None
            except HeadraceError as error:
                if not notes.note.worth_keeping:
                    files.forget()
                elif isinstance(error, StayedAway):
                    view.say(_how_to_go_on(notes.note))
                raise
            except KeyboardInterrupt:
                view.say(_how_to_go_on(notes.note))
                return INTERRUPTED
            if batch["status"] != BatchStatus.FAILED:
                files.publish(read_ns)
            notes.add(ended=batch)
        files.forget()
    return _told(batch, order, files, view)


def watch(api: PatientApi, batch_id: str, view: BatchView) -> dict[str, Any]:
    """The batch object once it has ended. Raises HeadraceError."""
    pause = _FIRST_POLL_S
    while True:
        batch: dict[str, Any] = api.get(f"/v1/batches/{batch_id}")
        view.show(batch)
        if batch["status"] in BATCH_ENDED:
            return batch
        time.sleep(pause)
        pause = min(pause * 1.5, POLL_S)


def exit_code(batch: dict[str, Any]) -> int:
    """What an ended batch comes to."""
    if batch["status"] != BatchStatus.COMPLETED:
        return NOT_DONE
    return SOME_FAILED if batch["request_counts"]["failed"] else ALL_ANSWERED


class BatchRun:
    """The stages between a server that answers and a batch that has ended. Those that the note knows of are passed over."""

    def __init__(self, api: PatientApi, notes: NoteFile, view: BatchView) -> None:
        self._api = api
        self._notes = notes
        self._view = view

    def ended(self, name: str, source: BinaryIO, surveyed: Survey) -> dict[str, Any]:
        """The batch object. Raises Refused where nothing of it came to be, else HeadraceError."""
        if self._notes.note.input_file_id is None:
            self._upload(name, source, surveyed)
        if (batch_id := self._notes.note.batch_id) is None:
            batch_id = self._create()
        else:
            self._view.say(f"going on with batch {batch_id}")
        if self._notes.note.order.url is None and not self._api.get("/health")["workers"]:
            self._view.say("the worker is loading the model; the lines run as soon as it has")
        try:
            return watch(self._api, batch_id, self._view)
        except Refused as refusal:
            raise HeadraceError(f"{refusal} If the server has forgotten the batch, --restart runs the input again.") from None

    def _upload(self, name: str, source: BinaryIO, surveyed: Survey) -> None:
        order = self._notes.note.order
        # Noted, because an upload that is repeated must have the same bytes as the first.
        if (model := self._notes.note.model) is None:
            self._notes.add(model=(model := self._model(order)))
        self._view.phase("uploading the input")
        fill = Fill(endpoint=order.endpoint, model=model, max_tokens=order.max_tokens, temperature=order.temperature)
        key = f"{self._notes.note.key}-input"
        file = self._api.upload(name, lambda: upload(source, surveyed.jsonl, fill), key=key)
        self._notes.add(input_file_id=file["id"])

    def _model(self, order: Order) -> str:
        # What a server of its own serves has a name that the server chooses.
        if order.model is not None and order.url is not None:
            return order.model
        while not (models := self._api.get("/v1/models")["data"]):
            self._view.phase("waiting for the server to load a model")
            time.sleep(POLL_S)
        return str(models[0]["id"])

    def _create(self) -> str:
        note = self._notes.note
        body = {"input_file_id": note.input_file_id, "endpoint": note.order.endpoint, "completion_window": COMPLETION_WINDOW}
        batch_id: str = self._api.post("/v1/batches", body, key=f"{note.key}-batch")["id"]
        self._notes.add(batch_id=batch_id)
        return batch_id


def _done_before(files: BatchFiles, source: BinaryIO, surveyed: Survey, view: BatchView) -> int | None:
    """The exit code if there is nothing to do. Raises HeadraceError if there is, and would replace what is there."""
    if (done := answered(files, source, surveyed)) is None:
        files.check_free()
        return None
    completed, failed = done
    counts = {"total": completed + failed, "completed": completed, "failed": failed}
    batch = {"status": BatchStatus.COMPLETED, "request_counts": counts}
    view.say(f"already done: {_summary(batch, files)}; --restart runs it again")
    return exit_code(batch)


def _begun(files: BatchFiles, order: Order, *, restart: bool) -> tuple[NoteFile, Note | None]:
    """What an earlier run has begun, or a new note and the one it replaces. Raises HeadraceError if the earlier one was another run."""
    abandoned = None
    try:
        note = read_note(files.note)
    except HeadraceError:
        if not restart:
            raise
        note = None
    if restart:
        abandoned, note = note, None
    if note is not None and (differences := note.order.differences(order)):
        if note.worth_keeping:
            raise HeadraceError(
                f"{files.note} is of a run that differs in {', '.join(differences)}: repeat that command to go on with it, "
                "or add --restart to forget it"
            )
        files.forget()
        files.check_free()
        note = None
    if note is not None:
        return NoteFile(files.note, note), None
    files.forget()
    return NoteFile.begin(files.note, order), abandoned


@contextlib.contextmanager
def _server(order: Order, files: BatchFiles, lock: int, view: BatchView) -> Iterator[PatientApi]:
    if (url := order.url) is not None:
        with PatientApi(lambda: url, view.say) as api:
            yield api
        return
    data_dir = files.data_dir.resolve() if order.data_dir is None else Path(order.data_dir)
    with (
        OwnServer(data_dir, model=order.model, lock=lock, phase=view.phase, say=view.say) as server,
        PatientApi(server.locate, view.say, through_proxies=False) as api,
    ):
        yield api


def _take_back(api: PatientApi, old: Note, order: Order, view: BatchView) -> None:
    """Cancel the batch that --restart has forgotten, if it is this server's."""
    if old.batch_id is None:
        return
    if (old.order.url, old.order.data_dir) == (order.url, order.data_dir):
        with contextlib.suppress(Refused):  # it has ended, or went with its server's data
            api.post(f"/v1/batches/{old.batch_id}/cancel", {}, key=old.key)
            view.say(f"batch {old.batch_id} is cancelled")
    elif old.order.url is not None:
        view.say(f"batch {old.batch_id} goes on; {_cancel_command(old)} stops it")


def _fetch(api: PatientApi, batch: dict[str, Any], files: BatchFiles, view: BatchView) -> None:
    if batch["status"] == BatchStatus.FAILED:
        return  # nothing ran
    view.phase("fetching the results")
    try:
        for file_id, part in ((batch["output_file_id"], files.part), (batch["error_file_id"], files.errors_part)):
            with part.open("wb") as into:
                if file_id:
                    api.download(file_id, into)
    except Refused as refusal:
        raise HeadraceError(f"the results cannot be fetched: {refusal} The same command tries again.") from None
    except OSError as error:
        raise HeadraceError(f"cannot write beside {files.out} ({error.strerror}); the same command tries again") from None


def _told(batch: dict[str, Any], order: Order, files: BatchFiles, view: BatchView) -> int:
    """Say what came of it. Returns the exit code."""
    if batch["status"] == BatchStatus.FAILED:
        view.refused(batch)
        view.say(f"nothing ran; correct {_at_fault(batch, order)} and run it again")
        return NOT_DONE
    view.say(_summary(batch, files))
    if batch["status"] != BatchStatus.COMPLETED:
        view.say(f"the batch was {batch['status']} before its end; --restart runs all of the input again")
    return exit_code(batch)


def _summary(batch: dict[str, Any], files: BatchFiles) -> str:
    counts = batch["request_counts"]
    others = f"; {progress_of(batch)[1]}: {files.errors}" if counts["failed"] else ""
    return f"{counts['completed']} of {counts['total']} lines answered: {files.out}{others}"


def _at_fault(batch: dict[str, Any], order: Order) -> str:
    """What to correct: the input, or the one option that every fault is about."""
    params = {fault.get("param") for fault in (batch.get("errors") or {}).get("data") or []}
    if params == {"body.model"} and order.model is not None and order.url is not None:
        return "--model"
    if params == {"body.max_tokens"} and order.max_tokens is not None:
        return "--max-tokens"
    return "the input"


def _how_to_go_on(note: Note) -> str:
    if note.order.url is None:
        return "stopped; the same command goes on from here"
    if note.batch_id is None:
        return "stopped before the batch was created; the same command goes on from here"
    return f"batch {note.batch_id} goes on; the same command picks it up, {_cancel_command(note)} stops it"


def _cancel_command(note: Note) -> str:
    return command(f"batch cancel {note.batch_id}", note.order.url)


def _name(source: str) -> str:
    return "stdin.jsonl" if source == STDIN else Path(source).name
