"""Decoding with and without drafts: ``python -m bench.speculation MODEL --draft MODEL``.

One request at a time, greedily, with prompts cut from a text; the same ones without drafts, with prompt lookup, and
with a draft model, in turn. Output is the same in all, which is checked. Speculation rests where it loses time, as in
use; ``--always`` drafts all the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from bench.compare import model_path
from bench.models import default_folder
from densecore import DenseCore
from densecore.benchmark import markdown_table
from densecore.engine.sequence import Usage
from densecore.exceptions import DenseCoreError

Run = tuple[float, list[list[int]], list[Usage]]  # tokens a second, output and usage of each prompt


def prompts(model: DenseCore, text: str, count: int, length: int) -> list[list[int]]:
    """Pieces of `length` tokens, spread over the text."""
    token_ids = model.tokenize(text)
    if len(token_ids) < count * length:
        raise SystemExit(f"the text has {len(token_ids)} tokens, too few for {count} prompts of {length}")
    return [token_ids[first : first + length] for first in range(0, count * length, length)]


def decode(model: DenseCore, pieces: list[list[int]], num_tokens: int) -> Run:
    """Answer each prompt; the rate leaves out first tokens."""
    results = [
        model.complete(piece, max_tokens=num_tokens, temperature=0, repetition_penalty=1, ignore_eos=True)
        for piece in pieces
    ]
    seconds = sum(result.timings.decode_seconds for result in results)
    rate = sum(result.timings.decode_tokens for result in results) / seconds
    return rate, [result.token_ids for result in results], [result.usage for result in results]


def compare(models: dict[str, DenseCore], pieces: list[list[int]], num_tokens: int, rounds: int) -> list[list[str]]:
    """A row for each way; ratios are taken within a round."""
    runs: dict[str, list[Run]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            time.sleep(0.1)
            runs[name].append(decode(model, pieces, num_tokens))
    plain = next(iter(runs.values()))
    rows = []
    for name, each in runs.items():
        assert all(run[1] == plain[0][1] for run in each), f"{name}: drafts have changed the output"
        ratios = [run[0] / other[0] for run, other in zip(each, plain, strict=True)]
        drafted = sum(usage.draft_tokens for usage in each[-1][2])
        accepted = sum(usage.accepted_draft_tokens for usage in each[-1][2])
        part = f"{accepted} of {drafted} ({100 * accepted / drafted:.0f} %)" if drafted else ""
        rows.append(
            [name, f"{statistics.median(run[0] for run in each):.0f}", f"{statistics.median(ratios):.2f}", part]
        )
    return rows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.speculation", description=__doc__)
    parser.add_argument("model", help="a GGUF file, or SHAPE:TYPE")
    parser.add_argument("--draft", metavar="MODEL", help="a smaller model with the same vocabulary")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="where prompts are taken from")
    parser.add_argument("--prompts", type=int, default=8, metavar="N", help="(default %(default)s)")
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens of a prompt (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="of an output (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default %(default)s)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--always", action="store_true", help="draft even where it loses time")
    args = parser.parse_args()
    path = model_path(args.model, default_folder())
    ways: dict[str, dict[str, Any]] = {"without": {}, "prompt lookup": {"speculation": "prompt-lookup"}}
    if args.draft:
        ways["draft model"] = {"draft_model_path": model_path(args.draft, default_folder())}
    models: dict[str, DenseCore] = {}
    try:
        for name, options in ways.items():
            models[name] = DenseCore(path, args.threads, max_num_seqs=1, **options)
            models[name]._engine.speculation.adaptive = not args.always
        pieces = prompts(models["without"], args.text.read_text(), args.prompts, args.length)
        for model in models.values():
            decode(model, pieces[:1], args.tokens)  # kernels are compiled
        rows = compare(models, pieces, args.tokens, args.rounds)
    except DenseCoreError as error:
        raise SystemExit(str(error)) from error
    finally:
        for model in models.values():
            model.close()
    print(f"\n{markdown_table([path.name, 'tokens/s', 'of without', 'guesses that were right'], rows)}")


if __name__ == "__main__":
    main()
