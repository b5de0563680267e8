"""``densecore rm``: delete downloaded models."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from densecore.cli.failures import printable, say
from densecore.cli.output import readable_size
from densecore.cli.parser import add_verb, wrong_usage
from densecore.exceptions import ModelLoadError

if TYPE_CHECKING:
    from densecore.hub import CachedModel, ModelReference

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore rm owner/name:Q4_K_M                this model
  densecore rm owner/name                       the repository, with everything that was downloaded of it
  densecore rm owner/name:Q4_K_M --yes          without asking

Only what lies in huggingface_hub's cache (HF_HOME) is deleted, in every revision of the repository that is there.
"""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Delete downloaded models", EXAMPLES)
    parser.add_argument("name", metavar="MODEL", help="owner/name, owner/name:QUANTIZATION or owner/name:FILE.gguf")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Ask, delete, and print what was freed; the exit status."""
    from densecore.hub import ModelReference, cached_models, remove_models, repositories

    reference = ModelReference.parse(args.name)
    repository = next((found for found in repositories() if found.repo_id == reference.repo_id), None)
    if repository is None:
        raise ModelLoadError(f"{reference.repo_id}: nothing of it is in the cache (see densecore list)")
    models = cached_models(repository)
    if reference.selector is not None:
        models = _selected(models, reference)
    if not args.yes and not _confirmed(args, models, whole=reference.selector is None):
        say("nothing was deleted")
        return 1
    freed = remove_models(repository, None if reference.selector is None else models)
    print(f"deleted {printable(args.name)}, {readable_size(freed)} freed")
    return 0


def _selected(models: list[CachedModel], reference: ModelReference) -> list[CachedModel]:
    """The models that the reference means: one file, or all of a quantization."""
    from densecore.hub import quantization_of

    selector = reference.selector or ""
    quantization = quantization_of(selector) or selector.upper()
    found = [model for model in models if selector in model.parts]
    found = found or [model for model in models if model.quantization == quantization]
    if not found:
        there = ", ".join(model.name for model in models) or "no GGUF file"
        raise ModelLoadError(f"{reference}: not in the cache; of {reference.repo_id} there is {there}")
    return found


def _confirmed(args: argparse.Namespace, models: list[CachedModel], *, whole: bool) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        wrong_usage(args, "deleting needs a yes: answer on a terminal, or give --yes")
    for model in models:
        say(printable(f"  {model.name}  {readable_size(model.size_bytes)}"))
    if whole:
        say("  and everything else that was downloaded of this repository")
    sys.stderr.write("delete? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
