"""Names of models in several files: ``NAME-00001-of-0000N.gguf`` and so on."""

from __future__ import annotations

import re

__all__ = ["PART_NAME", "part_names"]

PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


def part_names(stem: str, count: int) -> list[str]:
    """Names of all `count` parts, in order."""
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
