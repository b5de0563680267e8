"""How a checkpoint of sentence-transformers makes one vector of a text: its ``modules.json``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densecore.convert.json_files import parse_json, read_json, read_text_if_present
from densecore.gguf.errors import describe, load_error

__all__ = ["RANK", "pooling_type"]

# Numbers of llama.cpp's llama_pooling_type.
MEAN, CLS, LAST, RANK = 1, 2, 3, 4
_SWITCHES = {
    "pooling_mode_mean_tokens": MEAN,
    "pooling_mode_cls_token": CLS,
    "pooling_mode_lasttoken": LAST,
}
_NAMES = {"mean": MEAN, "cls": CLS, "lasttoken": LAST}


def pooling_type(folder: Path) -> Iterator[tuple[str, Any]]:
    """The key ``pooling_type`` and its value, if `folder` says how to pool."""
    modules = folder / "modules.json"
    text = read_text_if_present(modules)
    if text is None:
        return
    # The file is a list; as an object it goes through the same checks as all others.
    entries = parse_json(modules, f'{{"modules":{text}}}'.encode(), "file")["modules"]
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and str(entry.get("type", "")).endswith("Pooling"):
            yield "pooling_type", _read(folder, str(entry.get("path", "")))
            return


def _read(folder: Path, name: str) -> int:
    if set(name) & set("/\\\0:") or name == "..":
        raise load_error(folder / "modules.json", "path", f"is {describe(name)}", "a folder inside of the checkpoint")
    path = folder / name / "config.json"
    settings = read_json(path)
    for switch, number in _SWITCHES.items():
        if settings.get(switch) is True:
            return number
    if (mode := settings.get("pooling_mode")) in _NAMES:
        return _NAMES[mode]
    raise load_error(path, "pooling mode", f"is none that GGUF files know: {describe(settings)}", ", ".join(_NAMES))
