"""Reading a batch's input before anything runs: every fault is found and named, and nothing of a faulty file is ever run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from headrace.batch import LineFault
from headrace.errors import InvalidRequest, RequestError
from headrace.request import Endpoint
from headrace.wire.draft import check_fits
from headrace.wire.prompter import Prompters
from scheduler.batches.batch_line import BatchLine, check_address, parse_line, read_body
from scheduler.batches.lines import Index, Line, read_lines

MAX_FAULTS = 1_000
"""Faults that are told; more of them say nothing more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputLimits:
    bytes: int
    lines: int
    line_bytes: int


class Validator:
    """Reads one input. Afterwards either `faults` is empty and `index` and `model` say what the file holds, or it is refused."""

    def __init__(self, endpoint: Endpoint, prompters: Prompters, limits: InputLimits) -> None:
        self.index = Index()
        self.model: str | None = None
        self.faults: list[LineFault] = []
        self._endpoint = endpoint
        self._prompters = prompters
        self._limits = limits
        self._first_use: dict[str, int] = {}

    def read(self, file: BinaryIO, size: int) -> Iterator[int]:
        """Check the whole file, and yield each line's number on the way, so that the caller can renew what he holds.

        Raises ModelUnavailable.
        """
        if size > self._limits.bytes:
            self._file_fault("file_too_large", f"The file has {size} bytes; a batch may have {self._limits.bytes}.")
            return
        for line in read_lines(file, self._limits.line_bytes):
            if len(self.index) == self._limits.lines:
                self._file_fault("too_many_lines", f"The file has more than {self._limits.lines} requests.", line.number)
                return
            self.index.add(line)
            self._check(line)
            if len(self.faults) >= MAX_FAULTS:
                return
            yield line.number
        if not len(self.index):
            self._file_fault("empty_file", "The file holds no request.")

    def _check(self, line: Line) -> None:
        try:
            self._check_line(line)
        except RequestError as error:
            self.faults.append(LineFault(code=error.code or "invalid_value", message=error.message, param=error.param, line=line.number))

    def _check_line(self, line: Line) -> None:
        if line.too_long:
            raise InvalidRequest(f"This line is longer than {self._limits.line_bytes} bytes.", code="line_too_long")
        parsed = parse_line(line.data)
        first = self._first_use.setdefault(parsed.custom_id, line.number)
        if first != line.number:
            raise InvalidRequest(
                f"'custom_id' {parsed.custom_id[:80]!r} is already used in line {first}.", param="custom_id", code="duplicate_custom_id"
            )
        check_address(parsed, self._endpoint)
        try:
            self._check_body(parsed)
        except RequestError as error:
            error.param = f"body.{error.param}" if error.param else "body"
            raise

    def _check_body(self, parsed: BatchLine) -> None:
        body = read_body(parsed, self._endpoint)
        check_fits(body, self._prompters)
        if self.model is None:
            self.model = body.model
        elif body.model != self.model:
            raise InvalidRequest(
                f"'model' is {body.model[:80]!r}, but the batch began with {self.model[:80]!r}: all lines of a batch use one model.",
                param="model",
                code="mixed_models",
            )

    def _file_fault(self, code: str, message: str, line: int | None = None) -> None:
        self.faults.append(LineFault(code=code, message=message, line=line))
