"""The files that describe a checkpoint's tokenizer, read once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from densecore.convert.config import CheckpointConfig
from densecore.convert.json_files import read_json, read_json_if_present, read_text_if_present
from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import describe, load_error

__all__ = ["AddedToken", "TokenizerSource", "steps"]


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for before text is cut into words."""

    token_id: int
    content: str
    special: bool
    takes_space: bool  # white space after it goes with it


class TokenizerSource:
    """``tokenizer.json``, ``tokenizer_config.json``, ``config.json`` and what lies beside them.

    Attributes:
        description: the contents of ``tokenizer.json``; empty if there is none.
        settings: the contents of ``tokenizer_config.json``; empty if there is none.
        n_vocab: number of tokens that the model knows, at least as many as the tokenizer has.
    """

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        self.folder = folder
        self.config = config
        self.path = folder / "tokenizer.json"
        self.description = read_json_if_present(self.path)
        self.settings = read_json_if_present(folder / "tokenizer_config.json")
        self.n_vocab = config.integer("vocab_size")

    @property
    def model(self) -> dict[str, Any]:
        """The part of ``tokenizer.json`` that knows words."""
        model = self.description.get("model")
        if not isinstance(model, dict):
            raise self.error("model", f"is {describe(model)}", "an object")
        return model

    @cached_property
    def added(self) -> list[AddedToken]:
        """Tokens beside those of the model, by ``tokenizer.json`` or else by the settings."""
        entries = self.description.get("added_tokens")
        if entries is None:
            decoder = self.settings.get("added_tokens_decoder")
            decoder = decoder if isinstance(decoder, dict) else {}
            entries = [{"id": int(key), **value} for key, value in decoder.items() if key.isdecimal()]
        try:
            return [
                AddedToken(int(e["id"]), str(e["content"]), bool(e.get("special")), bool(e.get("rstrip")))
                for e in entries
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self.error("added_tokens", f"is broken ({error!r})", "objects with id and content") from None

    @cached_property
    def template(self) -> str | list[dict[str, str]] | None:
        """The chat template, or several with a name each."""
        template = self.settings.get("chat_template")
        if template is None:
            template = read_text_if_present(self.folder / "chat_template.jinja")
        if template is None:
            template = read_json_if_present(self.folder / "chat_template.json").get("chat_template")
        return template if isinstance(template, str | list) else None

    def error(self, field: str, problem: str, allowed: str) -> ModelLoadError:
        """A ModelLoadError about ``tokenizer.json``."""
        return load_error(self.path, field, problem, allowed)

    def require(self) -> None:
        """ModelLoadError if there is no ``tokenizer.json``."""
        if not self.description:
            read_json(self.path)

    def token_text(self, name: str) -> str | None:
        """The text of ``bos_token`` and the like in the settings, where it is a string or an object."""
        value = self.settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else None


def steps(description: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The steps of a part of ``tokenizer.json``, sequences unfolded; an absent part has none."""
    pending, found = [description.get(part)], []
    while pending:
        step = pending.pop(0)
        if not isinstance(step, dict):
            continue
        inner = next(
            (step[key] for key in ("normalizers", "pretokenizers", "decoders", "processors") if key in step), 0
        )
        if isinstance(inner, list):
            pending = [*inner, *pending]
        elif isinstance(step.get("type"), str):
            found.append(step)
    return found
