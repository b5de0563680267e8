"""How a model on the Hub is named: ``owner/name``, ``owner/name:Q4_K_M`` or ``owner/name:file.gguf``."""

from __future__ import annotations

import dataclasses
import re

from densecore.exceptions import InvalidConfigError

__all__ = ["ModelReference"]

_SHAPE = re.compile(r"(?P<repo_id>[\w.-]+/[\w.-]+)(?::(?P<selector>[^:]+))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ModelReference:
    """A repository, and which of its models is meant.

    repo_id : ``owner/name``
    selector : a quantization, or the name of a GGUF file; None leaves the choice to `choose`
    """

    repo_id: str
    selector: str | None = None

    def __str__(self) -> str:
        return self.repo_id if self.selector is None else f"{self.repo_id}:{self.selector}"

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """The reference that `text` is; InvalidConfigError if it is none."""
        match = _SHAPE.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidConfigError(
                f"{text!r} does not name a model on the Hub, as owner/name or owner/name:Q4_K_M does"
            )
        return cls(match["repo_id"], match["selector"])

    @classmethod
    def looks_like(cls, text: str) -> bool:
        """Whether `text`, which is no file here, can only mean a model on the Hub."""
        match = _SHAPE.fullmatch(text)
        return match is not None and text[0] not in ".-" and not match["repo_id"].lower().endswith(".gguf")
