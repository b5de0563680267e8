"""``densecore list``: the models that were downloaded."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

from densecore.cli.failures import printable, say
from densecore.cli.output import TextOutput, readable_size
from densecore.cli.parser import add_verb

if TYPE_CHECKING:
    from densecore.hub import CachedModel

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore list
  densecore list --json | jq '.[].name'

Shows each GGUF model in huggingface_hub's cache (HF_HOME), with its size on the disk and when it was used last.
The name can be given to --model, densecore pull and densecore rm.
"""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "List the models that were downloaded", EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print; the exit status."""
    from densecore.hub import cached_models, repositories, unfinished_bytes

    cached = repositories()
    models = [model for repository in cached for model in cached_models(repository)]
    if args.json:
        print(json.dumps([_facts(model) for model in models], indent=2))
        return 0
    output = TextOutput(sys.stdout)
    width = max((len(model.reference) for model in models), default=0)
    for model in models:
        used = datetime.datetime.fromtimestamp(model.last_used).strftime("%Y-%m-%d %H:%M")
        missing = f"  {len(model.missing_parts)} parts are missing" if model.missing_parts else ""
        row = f"{model.reference:<{width}}  {model.quantization or '-':<8}  {readable_size(model.size_bytes):>10}"
        output.write(printable(f"{row}  {used}{missing}") + "\n")
    for repository in cached:
        if unfinished := unfinished_bytes(repository):
            size, name = readable_size(unfinished), repository.repo_id
            say(f"{name}: {size} of unfinished downloads; densecore pull goes on, rm {name} deletes")
    return 0


def _facts(model: CachedModel) -> dict[str, Any]:
    return {
        "name": model.reference,
        "repo_id": model.repo_id,
        "file": model.name,
        "quantization": model.quantization,
        "size_bytes": model.size_bytes,
        "last_used": datetime.datetime.fromtimestamp(model.last_used, datetime.UTC).isoformat(timespec="seconds"),
        "missing_parts": list(model.missing_parts),
        "paths": [str(path) for path in model.paths],
    }
