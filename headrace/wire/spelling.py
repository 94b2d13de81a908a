"""What an answer says of its tokens beyond its text: log-probabilities, spelled out, and the prompt where it is echoed."""

from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Self

from headrace.job import LogEntry
from headrace.logprobs import Logprobs
from headrace.request import Endpoint, Request
from headrace.tokenizer import Token
from headrace.wire.prompter import Prompter, Prompters


class Spelling:
    """Of one answer, whose entries it is shown in order, from the first: the offsets of a completion's tokens are counted on the way."""

    def __init__(self, request: Request, prompter: Prompter) -> None:
        self.echo = prompter.decode(request.prompt_ids) if request.echo else ""
        self._prompter = prompter
        self._is_chat = request.endpoint is Endpoint.CHAT
        self._tells = request.sampling.logprobs is not None
        self._tells_prompt = request.echo and self._tells
        self._prompt_ids = request.prompt_ids
        self._shown = [len(self.echo)] * request.sampling.n
        self._begun: set[int] = set()

    @classmethod
    def of(cls, request: Request, prompters: Prompters) -> Self | None:
        """None if the answer says nothing but its text. Raises ModelNotFound, ModelUnavailable: a model spells its own tokens."""
        return cls(request, prompters(request.model)) if request.echo or request.sampling.logprobs is not None else None

    @property
    def echoes_first(self) -> bool:
        """The echo needs no entry: nothing is told of its tokens."""
        return bool(self.echo) and not self._tells_prompt

    def prompt_logprobs(self, entry: LogEntry) -> dict[str, Any] | None:
        """The echo's, with the first entry of a choice; else, and where none are told, None."""
        if not self._tells_prompt or entry.choice in self._begun:
            return None
        self._begun.add(entry.choice)
        return self._completion(self._prompt_ids, (None, *entry.prompt_logprobs), 0)

    def logprobs(self, entry: LogEntry) -> dict[str, Any] | None:
        """The entry's, in the shape of the endpoint; None where none are told."""
        start = self._shown[entry.choice]
        self._shown[entry.choice] += len(entry.text)
        if not self._tells or not entry.token_ids:
            return None
        return self._chat(entry) if self._is_chat else self._completion(entry.token_ids, entry.logprobs, start)

    def _chat(self, entry: LogEntry) -> dict[str, Any]:
        content = [
            {**self._token(token, told.chosen), "top_logprobs": [self._token(*other) for other in told.top]}
            for token, told in zip(entry.token_ids, entry.logprobs, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        token = self._prompter.spell(token_id)
        return {"token": token.name, "logprob": logprob, "bytes": list(token.data)}

    def _completion(self, token_ids: Sequence[int], told: Sequence[Logprobs | None], start: int) -> dict[str, Any]:
        """`start`: characters of the choice's text before these tokens."""
        tokens = [self._prompter.spell(token) for token in token_ids]
        offsets, decoder = [], getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            offsets.append(start)
            start += 0 if token.hidden else len(decoder.decode(token.data))
        return {
            "tokens": [token.name for token in tokens],
            "token_logprobs": [None if one is None else one.chosen for one in told],
            "top_logprobs": [None if one is None else self._likeliest(token, one) for token, one in zip(tokens, told, strict=True)],
            "text_offset": offsets,
        }

    def _likeliest(self, token: Token, told: Logprobs) -> dict[str, float]:
        """The token itself is among them, even if it was not likely. Of two that are spelled alike the likelier one is meant."""
        names: dict[str, float] = {}
        for other, logprob in told.top:
            names.setdefault(self._prompter.spell(other).name, logprob)
        names.setdefault(token.name, told.chosen)
        return names


def joined(parts: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The logprobs of consecutive parts of an answer as those of the whole."""
    told = [part for part in parts if part is not None]
    if not told:
        return None
    return {key: None if value is None else list(chain.from_iterable(part[key] for part in told)) for key, value in told[0].items()}
