"""How a checkpoint of sentence-transformers makes one vector of a text: its ``modules.json``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densecore.convert.json_files import parse_json, read_json, read_text_if_present
from densecore.gguf.errors import describe, load_error, printable

__all__ = ["RANK", "pooling_type"]

# Numbers of llama.cpp's llama_pooling_type.
MEAN, CLS, LAST, RANK = 1, 2, 3, 4
_SWITCHES = {
    "pooling_mode_mean_tokens": MEAN,
    "pooling_mode_cls_token": CLS,
    "pooling_mode_lasttoken": LAST,
}
_KNOWN = ("Transformer", "Pooling", "Normalize")  # the last one is up to who embeds
_NAMES = {"mean": MEAN, "cls": CLS, "lasttoken": LAST}


def pooling_type(folder: Path) -> Iterator[tuple[str, Any]]:
    """The key ``pooling_type`` and its value, if `folder` says how to pool."""
    path = folder / "modules.json"
    text = read_text_if_present(path)
    if text is None:
        return
    # The file is a list; as an object it goes through the same checks as all others.
    entries = parse_json(path, f'{{"modules":{text}}}'.encode(), "file")["modules"]
    modules = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if others := [kind for kind in kinds if kind not in _KNOWN]:
        warnings.warn(
            f"{path}: the model has modules that GGUF files cannot express, so that its vectors will be others:"
            f" {', '.join(map(printable, others))}",
            RuntimeWarning,
            stacklevel=2,
        )
    for module, kind in zip(modules, kinds, strict=True):
        if kind == "Pooling":
            yield "pooling_type", _read(folder, str(module.get("path", "")))
            return


def _read(folder: Path, name: str) -> int:
    if set(name) & set("/\\\0:") or name == "..":
        raise load_error(folder / "modules.json", "path", f"is {describe(name)}", "a folder inside of the checkpoint")
    path = folder / name / "config.json"
    settings = read_json(path)
    switched = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    if len(switched) == 1 and switched[0] in _SWITCHES:
        return _SWITCHES[switched[0]]
    mode = settings.get("pooling_mode")
    if not switched and isinstance(mode, str) and mode in _NAMES:
        return _NAMES[mode]
    raise load_error(path, "pooling mode", f"is none that GGUF files know: {describe(settings)}", ", ".join(_NAMES))
