"""From a caller's body to what a worker runs: validate, count the prompt's tokens, settle how long the answer may be.

Pure functions of the body and the model, shared by whoever takes requests in: the API, batch files. Nothing is stored for a body that is
refused here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from headrace.errors import ContextLengthExceeded, InvalidRequest
from headrace.request import Endpoint, Sampling
from headrace.wire.chat import ChatBody
from headrace.wire.completions import CompletionBody
from headrace.wire.problems import explain
from headrace.wire.prompter import Prompter, Prompters

Body = ChatBody | CompletionBody

_SCHEMAS: Mapping[Endpoint, type[ChatBody] | type[CompletionBody]] = {Endpoint.CHAT: ChatBody, Endpoint.COMPLETIONS: CompletionBody}
_OTHER = {Endpoint.CHAT: Endpoint.COMPLETIONS, Endpoint.COMPLETIONS: Endpoint.CHAT}
_PROMPT_PARAM = {Endpoint.CHAT: "messages", Endpoint.COMPLETIONS: "prompt"}

_TOKENS_AROUND = 64
"""More than any tokenizer puts around a text (beginning of text, a leading space)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A valid body, its prompt counted."""

    endpoint: Endpoint
    model: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool
    return_token_ids: bool
    echo: bool


def read_fields(parsed: Mapping[str, Any], endpoint: Endpoint) -> Body:
    """The body of `endpoint` in a parsed JSON object. Raises InvalidRequest for its first fault."""
    try:
        return _SCHEMAS[endpoint].model_validate(parsed)
    except ValidationError as error:
        known, other = _SCHEMAS[endpoint].model_fields, _OTHER[endpoint]
        elsewhere = {name: other.value for name in _SCHEMAS[other].model_fields if name not in known}
        raise explain(error, known=known, elsewhere=elsewhere) from None


def draft(body: Body, prompters: Prompters, seed: int) -> Draft:
    """Raises RequestError, ModelUnavailable. `seed` is used if the body names none. May take a second for megabytes of text."""
    prompter = _checked(body, prompters)
    limit = body.token_limit
    prompt_ids = _prompt_ids(body, prompter)
    max_tokens = _max_tokens(len(prompt_ids), limit, prompter.context_length, _endpoint(body))
    if body.min_tokens is not None and body.min_tokens > max_tokens:
        raise InvalidRequest(
            f"'min_tokens' must be at most {max_tokens}, as many tokens as the answer may have, got {body.min_tokens}.", param="min_tokens"
        )
    return Draft(
        endpoint=_endpoint(body),
        model=body.model,
        prompt_ids=prompt_ids,
        sampling=body.sampling(max_tokens=max_tokens, seed=seed),
        stream=bool(body.stream),
        include_usage=body.include_usage,
        return_token_ids=bool(body.return_token_ids),
        echo=body.echoes,
    )


def check_fits(body: Body, prompters: Prompters) -> None:
    """Raises what `draft` would, but tokenizes only where the prompt's bytes leave a doubt: tokenizing is the slow part by far.

    No token is shorter than a byte. (Where a tokenizer's normalization lengthens the text, a prompt that is too long may pass, and `draft`
    refuses it.)
    """
    prompter = _checked(body, prompters)
    limit = body.token_limit
    if isinstance(body, ChatBody):
        longest = prompter.longest_chat(_messages(body))
    elif isinstance(body.prompt, str):
        longest = len(body.prompt.encode())
    else:
        longest = prompter.context_length  # token ids have their own range to check
    if longest + _TOKENS_AROUND + (limit or 1) > prompter.context_length or (body.min_tokens or 0) > (limit or 1):
        draft(body, prompters, seed=0)


def _checked(body: Body, prompters: Prompters) -> Prompter:
    """The body's prompter, once all is checked that needs no prompt. Raises RequestError, ModelUnavailable."""
    body.check()
    prompter = prompters(body.model)
    prompter.can.check(body.sampling(max_tokens=1, seed=0))
    for param, ids in (("logit_bias", (token for token, _ in body.logit_bias)), ("stop_token_ids", body.stop_token_ids)):
        for token in ids:
            if not 0 <= token < prompter.vocab_size:
                raise InvalidRequest(f"'{param}' must name token ids from 0 to {prompter.vocab_size - 1}, got {token}.", param=param)
    return prompter


def _endpoint(body: Body) -> Endpoint:
    return Endpoint.CHAT if isinstance(body, ChatBody) else Endpoint.COMPLETIONS


def _messages(body: ChatBody) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in body.messages]


def _prompt_ids(body: Body, prompter: Prompter) -> tuple[int, ...]:
    """Raises InvalidRequest."""
    if isinstance(body, ChatBody):
        return prompter.chat(_messages(body))
    if isinstance(body.prompt, str):
        ids = prompter.text(body.prompt)
        if not ids:
            raise InvalidRequest("'prompt' must not be empty: it has no token.", param="prompt")
        return ids
    for index, token in enumerate(body.prompt):
        if not 0 <= token < prompter.vocab_size:
            raise InvalidRequest(f"'prompt[{index}]' must be a token id from 0 to {prompter.vocab_size - 1}, got {token}.", param="prompt")
    return body.prompt


def _max_tokens(prompt: int, asked: int | None, context: int, endpoint: Endpoint) -> int:
    """Tokens the answer may have: as asked, or what the prompt leaves of the context. Raises ContextLengthExceeded."""
    answer = max(1, context - prompt) if asked is None else asked
    if prompt + answer <= context:
        return answer
    param = _PROMPT_PARAM[endpoint]
    raise ContextLengthExceeded(
        f"The model's context is {context} tokens, but this request needs {prompt + answer}: {prompt} in '{param}' and {answer} "
        "for the answer.",
        param=param if prompt >= context else "max_tokens",
    )
