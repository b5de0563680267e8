"""Chat templates: a conversation becomes the text that the model was trained on.

The template is a Jinja program that comes with the model; it is rendered with the conventions of the transformers
library, in a process with limits (template_process). Models without one get ChatML, the most common form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from densecore.exceptions import InvalidConfigError, ModelLoadError
from densecore.tokenizer.template_process import exchange

if TYPE_CHECKING:
    from densecore.tokenizer.tokenizer import Tokenizer

__all__ = ["CHATML", "ChatTemplate"]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class ChatTemplate:
    """A template and the two tokens that it may write.

    ::

        template = ChatTemplate.for_tokenizer(tokenizer)
        text = template.render([{"role": "user", "content": "Hello!"}])
        ids = tokenizer.encode(text, add_special=True, parse_special=True)

    Attributes: ``source``; ``is_fallback``, whether ChatML stands in for a missing template; ``bos_token`` and
    ``eos_token``, the texts of these tokens.
    """

    def __init__(self, source: str | None, *, bos_token: str = "", eos_token: str = "") -> None:
        self.is_fallback = source is None
        self.source: str = CHATML if source is None else source
        self.bos_token = bos_token
        self.eos_token = eos_token

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The template that a tokenizer's file comes with, or ChatML."""
        bos, eos = (
            "" if token_id is None else tokenizer.token_text(token_id)
            for token_id in (tokenizer.bos_id, tokenizer.eos_id)
        )
        return cls(tokenizer.chat_template, bos_token=bos, eos_token=eos)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """The text of a conversation; with `add_generation_prompt` it ends where the assistant's reply begins.

        Each message is a dict with a ``role`` and a ``content``: a str, None, or a list of parts
        ``{"type": "text", "text": ...}``, which are joined by newlines. Other fields, `tools` and further keyword
        arguments reach the template as they are; they must be what JSON can express.

        Raises InvalidConfigError for messages of another form, and with the template's own words if it refuses the
        conversation, fails, or exceeds its limits of time and memory; ModelLoadError if the template is not Jinja.
        """
        variables = {
            "messages": _checked_messages(messages),
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            **kwargs,
        }
        _check_json(variables)
        answer = exchange({"source": self.source, "variables": variables})
        if "text" in answer:
            return answer["text"]
        message = answer["message"]
        if answer["problem"] == "syntax":
            raise ModelLoadError(f"the model's chat template is not valid Jinja: {message}")
        if answer["problem"] == "refused":
            raise InvalidConfigError(f"the chat template refuses this conversation: {message}")
        raise InvalidConfigError(f"the chat template cannot render this conversation: {message}")


def _checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InvalidConfigError(f"messages is a {type(messages).__name__}; a list of dicts is needed")
    if not messages:
        raise InvalidConfigError("messages is empty; at least one message is needed")
    return [_checked_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _checked_message(where: str, message: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidConfigError(f"{where} is a {type(message).__name__}; a dict with role and content is needed")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidConfigError(f"{where}.role is {role!r}; a name such as user, assistant or system is needed")
    if "content" not in message:
        if not message.get("tool_calls"):
            raise InvalidConfigError(f"{where} has no content; a str, or None beside tool calls, is needed")
        return dict(message)
    return {**message, "content": _checked_content(f"{where}.content", message["content"])}


def _checked_content(where: str, content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InvalidConfigError(
            f"{where} is a {type(content).__name__}; a str, None or a list of text parts is needed"
        )
    texts = []
    for index, part in enumerate(content):
        is_text = isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text:
            raise InvalidConfigError(f"{where}[{index}] is not {{'type': 'text', 'text': str}}; only text is supported")
        texts.append(part["text"])
    return "\n".join(texts)


def _check_json(variables: dict[str, Any]) -> None:
    for name, value in variables.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidConfigError(f"{name} cannot be written as JSON: {error}") from None
