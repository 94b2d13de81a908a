"""Chat conversations to prompt token ids, through the model's own Jinja template. Torch-free."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace.errors import InvalidRequest, ModelUnavailable
from headrace.model_folder import ModelFolder
from headrace.tokenizer import Tokenizer, unused_marker


class Rendered(NamedTuple):
    """A rendered conversation. `marker` breaks up special-token literals that came from the messages."""

    text: str
    marker: str


class ChatTemplate:
    """A model's chat template and tokenizer together. Methods may run in any thread."""

    def __init__(self, folder: ModelFolder, tokenizer: Tokenizer) -> None:
        """Raises ModelUnavailable if the folder's template is not valid Jinja."""
        self._tokenizer = tokenizer
        self._tokens = {"bos_token": folder.bos_token, "eos_token": folder.eos_token}
        self._source = folder.chat_template
        try:
            self._template = None if self._source is None else _environment().from_string(self._source)
        except TemplateSyntaxError as error:
            raise ModelUnavailable(f"the chat template in {folder.path} is not valid Jinja: {error}") from error

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Prompt ids of a conversation up to the start of the answer: transformers' ids, except that no message yields a special token.

        Raises InvalidRequest if the template refuses the messages, or the model has none.
        """
        rendered = self.render(messages)
        try:
            return self._tokenizer.encode_marked(rendered.text, rendered.marker)
        except InvalidRequest as error:
            raise InvalidRequest(f"'messages': {error.message}", param="messages") from None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> Rendered:
        """Raises InvalidRequest."""
        if self._template is None:
            raise InvalidRequest("'messages': this model has no chat template; use a plain prompt.", param="messages")
        if not messages:
            raise InvalidRequest("'messages' must hold at least one message.", param="messages")
        normal = [_normalize(message, f"messages[{i}]") for i, message in enumerate(messages)]
        marker = unused_marker([json.dumps(normal, ensure_ascii=False), self._source or ""])
        marked = [self._mark(message, marker) for message in normal]
        try:
            text = self._template.render(messages=marked, add_generation_prompt=True, **self._tokens)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise InvalidRequest(f"The model's chat template does not accept these messages: {error}", param="messages") from error
        return Rendered(text, marker)

    def _mark(self, value: Any, marker: str) -> Any:
        """Every string in a message comes from the caller: names and roles are marked like contents."""
        if isinstance(value, str):
            return self._tokenizer.mark_specials(value, marker)
        if isinstance(value, Mapping):
            return {key: self._mark(item, marker) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark(item, marker) for item in value]
        return value


def _normalize(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Content as one string, whichever of the wire's shapes it came in: templates concatenate it."""
    if not isinstance(message.get("role"), str):
        raise InvalidRequest(f"'{where}.role' must be a string.", param="messages")
    content = message.get("content")
    if content is None:
        content = ""
    if isinstance(content, list | tuple):
        content = "".join(_part_text(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise InvalidRequest(f"'{where}.content' must be a string, null or a list of text parts.", param="messages")
    return {**message, "content": content}


def _part_text(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise InvalidRequest(f'\'{where}\' must be a text part, {{"type": "text", "text": …}}.', param="messages")
    return text


def _environment() -> ImmutableSandboxedEnvironment:
    """The settings, filters and functions that published templates are written against: those of transformers."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
