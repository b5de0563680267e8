"""``densecore prune``: a model without its least important parts."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from densecore.cli.downloads import local_path
from densecore.cli.output import readable_size
from densecore.cli.parser import add_verb, wrong_usage
from densecore.cli.standard_input import read_text
from densecore.cli.tensor_progress import TensorProgress
from densecore.exceptions import InvalidConfigError
from densecore.prune.config import METHODS, STRATEGIES, PruneConfig

if TYPE_CHECKING:
    from densecore.prune import PruneResult

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore prune model-f16.gguf smaller.gguf --importance activation --text calibration.txt
  densecore prune model-f16.gguf smaller.gguf --strategy depth --layers 24
  densecore prune model-f16.gguf smaller.gguf --strategy width --ratio 0.1 --importance l2_norm

A pruned model is worse than its size suggests until it is trained again; densecore compare shows by how much.
"""
_TARGETS = (
    ("--layers", "target_n_layer", "layers that remain"),
    ("--hidden-dim", "target_hidden_dim", "feed-forward channels that remain"),
    ("--dim", "target_dim", "channels of the residual stream that remain"),
    ("--kv-heads", "target_n_kv_head", "heads of keys and values that remain, with the queries that share them"),
)


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Make a smaller model by leaving parts out", EXAMPLES)
    parser.add_argument("input", metavar="INPUT", help="GGUF file, or owner/name on the Hub")
    parser.add_argument("output", metavar="OUTPUT", help="file to write; replaced when the new one is complete")
    parser.add_argument("--strategy", choices=STRATEGIES, default="depth", help="what is left out (depth)")
    parser.add_argument("--ratio", type=float, default=0.25, metavar="R", help="part that is left out (0.25)")
    for flag, name, text in _TARGETS:
        parser.add_argument(flag, dest=name, type=int, metavar="N", help=f"{text}, instead of --ratio")
    parser.add_argument("--importance", choices=METHODS, default="magnitude", help="how it is measured (magnitude)")
    parser.add_argument("--text", metavar="FILE", help="text to measure activation on, in UTF-8")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --importance random (0)")
    parser.add_argument("--plot", metavar="PNG", help="write a picture: importance of each layer")
    parser.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="(default: one a physical core)")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Prune, and print what came of it; the exit status."""
    try:
        targets = {name: getattr(args, name) for _, name, _ in _TARGETS}
        config = PruneConfig(
            args.strategy, importance_method=args.importance, ratio=args.ratio, seed=args.seed, **targets
        )
    except InvalidConfigError as error:
        wrong_usage(args, str(error))
    text = None if args.text is None else read_text(args.text)
    source = local_path(args.input, quiet=args.quiet)
    from densecore.prune import plot_importance, prune_model

    if args.plot:
        from densecore.benchmark.plot import require_matplotlib

        require_matplotlib()
    show = TensorProgress(quiet=args.quiet)
    try:
        result = prune_model(source, args.output, config, calibration_text=text, threads=args.threads, progress=show)
    finally:
        show.end()
    print(json.dumps(result.as_dict(), indent=2) if args.json else _summary(args.output, result))
    if args.plot:
        plot_importance(args.plot, result)
    return 0


def _summary(path: str, result: PruneResult) -> str:
    lines = [
        f"layer {layer:<4}{'kept' if layer in result.layers else 'left out':<10}importance {value:.5g}"
        for layer, value in enumerate(result.layer_importance)
    ]
    sizes = f"{readable_size(result.input_bytes)} -> {readable_size(result.output_bytes)}"
    parameters = f"{result.input_parameters:,} -> {result.output_parameters:,} parameters"
    shape = f"{result.n_layers} layers"
    if result.hidden_dim:
        heads = f"{result.n_heads} heads ({result.n_kv_heads} of keys and values)"
        shape += f", {result.dim} wide, feed-forward {result.hidden_dim}, {heads}"
    return "\n".join([*lines, f"{path}: {sizes}, {parameters}, {shape}, {result.seconds:.1f} s"])
