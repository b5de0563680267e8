"""Which of a repository's files is the model that is meant."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from densecore.exceptions import ModelLoadError
from densecore.split_names import PART_NAME, part_names

__all__ = ["PREFERENCE", "ModelFiles", "choose", "models_among", "quantization_of"]

# Without a quantization: first what most people run, then what is near it in size, then larger, then smaller ones.
PREFERENCE = (
    "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS",
    "Q5_K_M", "Q5_K_S", "Q5_0", "Q5_1", "Q6_K", "Q8_0", "F16", "BF16", "F32",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip
_OTHER_FILES = ("mmproj", "imatrix")  # in names of files that are no language models
_MOST_NAMES = 12  # in a message
_MOST_PARTS = 999
_QUANTIZATION = re.compile(
    r"(?<![A-Z0-9])(?P<dynamic>UD-)?(?:FP(?P<float>16|32)|(?P<name>I?Q[1-8](?:_[A-Z0-9]+)*|TQ[12]_0|BF16|F16|F32|MXFP4))"
    r"(?![A-Z0-9])"
)


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A model of a repository.

    parts : names of its files in order; more than one if it is split, and all of them, whether they are there or not
    quantization : as the names say, such as ``Q4_K_M``; None if they do not
    """

    parts: tuple[str, ...]
    quantization: str | None

    @property
    def name(self) -> str:
        """The first file's."""
        return self.parts[0]


def quantization_of(filename: str) -> str | None:
    """The quantization that a name ends with, or else that of its folder; in capitals."""
    path = PurePosixPath(filename)
    for text in (path.stem, path.parent.name):
        found = list(_QUANTIZATION.finditer(text.upper()))
        if found:
            last = found[-1]
            return (last["dynamic"] or "") + (last["name"] or f"F{last['float']}")
    return None


def models_among(filenames: Iterable[str], *, every: bool = False) -> list[ModelFiles]:
    """The language models among the files of a repository; with `every`, whatever is a GGUF file."""
    found = {}
    for filename in sorted(filenames):
        name = PurePosixPath(filename).name.lower()
        if name.endswith(".gguf") and (every or not any(word in name for word in _OTHER_FILES)):
            parts = _parts(filename)
            found[parts[0]] = ModelFiles(parts, quantization_of(filename))
    return list(found.values())


def choose(filenames: Iterable[str], selector: str | None, where: str) -> ModelFiles:
    """The model that `selector` means: a quantization, the name of a file, or None for the first of `PREFERENCE`.

    where : the repository, for messages

    Raises ModelLoadError, with the names to choose from, if that is no model or not a single one, or if a part of it is
    missing.
    """
    filenames = list(filenames)
    models = models_among(filenames)
    if selector is not None and selector.lower().endswith(".gguf"):
        models = models_among(filenames, every=True)
        matching = [model for model in models if selector in model.parts]
    elif selector is not None:
        matching = _of_quantization(models, selector)
    else:
        matching = _preferred(models)
    if len(matching) != 1:
        raise ModelLoadError(_why_not_one(models, matching, selector, where))
    missing = sorted(set(matching[0].parts) - set(filenames))
    if missing:
        raise ModelLoadError(f"{where}: of {len(matching[0].parts)} parts of the model, {_some(missing)} is missing")
    return matching[0]


def _parts(filename: str) -> tuple[str, ...]:
    match = PART_NAME.fullmatch(filename)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]) <= _MOST_PARTS:
        return (filename,)
    return tuple(part_names(match["stem"], int(match["count"])))


def _of_quantization(models: Sequence[ModelFiles], selector: str) -> list[ModelFiles]:
    wanted = quantization_of(selector) or selector.upper()
    exact = [model for model in models if model.quantization == wanted]
    return exact or [model for model in models if model.quantization == f"UD-{wanted}"]


def _preferred(models: Sequence[ModelFiles]) -> list[ModelFiles]:
    if len(models) == 1:
        return list(models)
    for quantization in PREFERENCE:
        matching = [model for model in models if model.quantization == quantization]
        if matching:
            return matching
    return []


def _why_not_one(models: Sequence[ModelFiles], matching: Sequence[ModelFiles], selector: str | None, where: str) -> str:
    if not models:
        return f"{where}: there is no GGUF file of a language model"
    if matching:
        names = _some([model.name for model in matching])
        return f"{where}: several models fit: {names}; name the file, as in owner/name:{matching[0].name}"
    if selector is not None and selector.lower().endswith(".gguf"):
        return f"{where}: there is no {selector}, but {_some([model.name for model in models])}"
    labels = sorted({model.quantization or model.name for model in models})
    if selector is None:
        return f"{where}: there are several models; add one of these to the name after a colon: {_some(labels)}"
    return f"{where}: nothing is quantized as {selector}; there is {_some(labels)}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
