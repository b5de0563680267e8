"""``densecore info``: what is in a model file, and what running it takes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from densecore.cli.failures import printable
from densecore.cli.options import add_model_argument, positive_integer
from densecore.cli.output import TextOutput, readable_size
from densecore.cli.parser import add_verb

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore info model.gguf
  densecore info model.gguf --ctx-size 8192      memory for a context of this length
  densecore info model.gguf --tensors            each tensor
  densecore info model.gguf --json | jq .memory

The file is checked as for running, but nothing is computed. Files that hold only a vocabulary, and models that
DenseCore cannot run, are shown too.
"""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Show what is in a model file", EXAMPLES)
    parser.add_argument("path", nargs="?", metavar="MODEL", help="GGUF file, or owner/name on the Hub (built in)")
    add_model_argument(parser)
    parser.add_argument(
        "-c",
        "--ctx-size",
        "--max-model-len",
        dest="ctx_size",
        type=positive_integer,
        metavar="N",
        help="tokens for which memory is computed (default: the model's context length)",
    )
    parser.add_argument("--tensors", action="store_true", help="list each tensor")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print; the exit status."""
    if args.path is not None:  # by position is usual here; --model works as with other verbs
        args.model = args.path
    from densecore.cli.model_facts import model_facts, tensor_facts
    from densecore.cli.options import model_path
    from densecore.gguf import GGUFFile

    with GGUFFile.open(model_path(args)) as file:
        facts = model_facts(file, args.ctx_size)
        tensors = [tensor_facts(tensor) for tensor in file.tensors.values()] if args.tensors else []
    if args.json:
        print(json.dumps(facts | {"tensors": tensors} if args.tensors else facts, indent=2))
        return 0
    output = TextOutput(sys.stdout)
    for name, value in _rows(facts):
        output.write(f"{name:<16}{printable(value)}".rstrip() + "\n")
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"]))
        row = f"  {tensor['type']:<8}{shape:>16}  {readable_size(tensor['n_bytes']):>10}  {printable(tensor['name'])}"
        output.write(row + "\n")
    return 0


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    parts = f" in {facts['files']} files" if facts["files"] > 1 else ""
    size = readable_size(facts["file_bytes"])
    yield "file", f"{facts['path']} ({size}{parts}, GGUF version {facts['gguf_version']})"
    yield "name", _or_unknown(facts["name"])
    yield "architecture", _or_unknown(facts["architecture"])
    yield "supported", "yes" if facts["supported"] else "no, because " + "; ".join(facts["reasons_against"])
    yield "parameters", f"{facts['parameters']:,}"
    for row in facts["tensor_types"]:
        share = f"{100 * row['share']:.1f} %"
        yield "  " + row["type"], f"{row['tensors']:>5} tensors  {readable_size(row['bytes']):>10}  {share:>7}"
    yield "context length", _or_unknown(facts["context_length"])
    yield "dimensions", _dimensions(facts)
    yield from _vocabulary_rows(facts["vocabulary"])
    yield "chat template", _chat_template(facts["chat_template"])
    yield from _memory_rows(facts["memory"])


def _dimensions(facts: dict[str, Any]) -> str:
    text = (
        f"{_or_unknown(facts['n_layers'])} layers, dim {_or_unknown(facts['dim'])}, "
        f"hidden_dim {_or_unknown(facts['hidden_dim'])}, {_or_unknown(facts['n_heads'])} heads "
        f"({_or_unknown(facts['n_kv_heads'])} for keys and values) of {_or_unknown(facts['head_dim'])}"
    )
    return text + (f", {facts['n_experts']} experts" if facts["n_experts"] else "")


def _vocabulary_rows(vocabulary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    pre = f", pre-tokenizer {vocabulary['pre']}" if vocabulary["pre"] else ""
    yield "vocabulary", f"{_or_unknown(vocabulary['kind'])}, {vocabulary['size']:,} tokens{pre}"
    if vocabulary["problem"]:
        yield "", vocabulary["problem"]
    if vocabulary["special"]:
        tokens = (f"{name} {token['id']} {token['text']!r}" for name, token in vocabulary["special"].items())
        yield "  special", ", ".join(tokens)
    if ends := vocabulary.get("end_of_generation"):
        yield "  ends replies", ", ".join(f"{token['id']} {token['text']!r}" for token in ends)


def _chat_template(template: dict[str, Any]) -> str:
    if template["present"]:
        return f"yes ({template['key']}, {template['characters']:,} characters)"
    return "no (chats use ChatML, which the model may not know)"


def _memory_rows(memory: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "memory", f"{readable_size(memory['weights_bytes'])} weights, mapped from the file"
    if memory["kv_cache_f16_bytes"] is not None:
        f16, f32, q8 = (readable_size(memory[f"kv_cache_{dtype}_bytes"]) for dtype in ("f16", "f32", "q8_0"))
        yield "", f"{f16} KV cache for a context of {memory['ctx_size']:,} tokens in f16 ({f32} in f32, {q8} in q8_0)"


def _or_unknown(value: Any) -> str:
    return "unknown" if value is None else str(value)
