"""A conversation with a model, and the settings of its next answer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from densecore.config import GenerationConfig
from densecore.exceptions import InvalidConfigError

__all__ = ["Conversation"]


class Conversation:
    """Messages so far, the last of them from the user or the assistant; the system's message is kept apart."""

    def __init__(self, config: GenerationConfig, system: str | None = None) -> None:
        self.config = config
        self.system = system
        self.turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the model gets."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def add(self, role: str, content: str) -> None:
        """Append a message."""
        self.turns.append({"role": role, "content": content})

    def drop_last(self, role: str) -> bool:
        """Remove the last message if it is of `role`; whether it was."""
        if not self.turns or self.turns[-1]["role"] != role:
            return False
        self.turns.pop()
        return True

    def set(self, name: str, text: str) -> Any:
        """Change a field of the sampling settings to what `text` says as JSON, or as plain text; the new value.

        Raises InvalidConfigError for an unknown name or a value out of range.
        """
        name = name.replace("-", "_")
        if name not in GenerationConfig.names():
            known = ", ".join(sorted(GenerationConfig.names()))
            raise InvalidConfigError(f"unknown setting {name!r}; known are {known}")
        self.config = dataclasses.replace(self.config, **{name: _parse(text)})
        return getattr(self.config, name)

    def settings(self) -> dict[str, Any]:
        """All sampling settings by name."""
        return {field.name: getattr(self.config, field.name) for field in dataclasses.fields(self.config)}

    def save(self, path: str) -> Path:
        """Write the messages as JSON to a new file. Raises OSError, also if the file exists."""
        file = Path(path).expanduser()
        with open(file, "x", encoding="utf-8") as stream:
            json.dump(self.messages, stream, ensure_ascii=False, indent=2)
            stream.write("\n")
        return file


def _parse(text: str) -> Any:
    """``0.5``, ``true``, ``["a", "b"]`` as JSON; ``none`` and ``off`` as None; anything else is a string."""
    if text.lower() in ("none", "off"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
