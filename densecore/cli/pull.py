"""``densecore pull``: download a model from the Hugging Face Hub."""

from __future__ import annotations

import argparse
from typing import Any

from densecore.cli.downloads import fetch
from densecore.cli.parser import add_verb

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore pull Qwen/Qwen2.5-0.5B-Instruct-GGUF             Q4_K_M, where there is a choice
  densecore pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0        this quantization
  densecore pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:qwen2.5-0.5b-instruct-fp16.gguf
  HF_TOKEN=... densecore pull owner/private-model

Models go to huggingface_hub's cache, and its settings count: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. All parts
of a split model are downloaded. A download that was cut off, by Ctrl-C too, goes on where it stopped. Printed is
the path of the file; of a split model, of its first.
"""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Download a model from the Hugging Face Hub", EXAMPLES)
    parser.add_argument("name", metavar="MODEL", help="owner/name, owner/name:QUANTIZATION or owner/name:FILE.gguf")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit (default: main)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Download and print the path; the exit status."""
    print(fetch(args.name, revision=args.revision, quiet=args.quiet))
    return 0
