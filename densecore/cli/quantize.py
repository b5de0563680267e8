"""``densecore quantize``: a model in fewer bits."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from densecore.cli.downloads import local_path
from densecore.cli.output import readable_size
from densecore.cli.parser import add_verb, wrong_usage
from densecore.cli.tensor_progress import TensorProgress
from densecore.exceptions import InvalidConfigError
from densecore.quantize import QuantConfig
from densecore.quantize.mixes import MIXES

if TYPE_CHECKING:
    from densecore.quantize import QuantizationResult

__all__ = ["add_parser", "run"]

EXAMPLES = f"""\
  densecore quantize model-f16.gguf model-q4_k_m.gguf
  densecore quantize model-f16.gguf model-q3_k_m.gguf q3_k_m --imatrix model.imatrix.gguf
  densecore quantize model-f16.gguf model.gguf q4_k_m --tensor-type 'ffn_down=q6_k' --tensor-type 'token_embd=q8_0'

Formats: {", ".join(MIXES)}.
densecore compare shows what a format costs.
"""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Make a smaller model by storing weights in fewer bits", EXAMPLES)
    parser.add_argument("input", metavar="INPUT", help="GGUF file in F32, F16 or BF16, or owner/name on the Hub")
    parser.add_argument("output", metavar="OUTPUT", help="file to write; replaced when the new one is complete")
    parser.add_argument("format", nargs="?", default="q4_k_m", metavar="FORMAT", help="(default: q4_k_m)")
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix, as densecore imatrix makes it")
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="REGEX=TYPE",
        help="type of tensors whose name matches, before the format's own rules; may be repeated",
    )
    parser.add_argument("--pure", action="store_true", help="the same type for all matrices")
    parser.add_argument(
        "--allow-requantize", action="store_true", help="quantize a quantized model again, which loses more"
    )
    parser.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="(default: one a core)")
    parser.add_argument("--json", action="store_true", help="print sizes and the error of each tensor as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Quantize, and print what came of it; the exit status."""
    config = _config(args)
    source = local_path(args.input, quiet=args.quiet)
    from densecore.quantize import quantize_model
    from densecore.quantize.model import tensor_line

    show = TensorProgress(quiet=args.quiet)
    try:
        result = quantize_model(source, args.output, config, progress=lambda *facts: show(tensor_line(*facts)))
    finally:
        show.end()
    print(json.dumps(result.as_dict(), indent=2) if args.json else _summary(args.output, result))
    return 0


def _config(args: argparse.Namespace) -> QuantConfig:
    """The settings; wrong ones end with status 2."""
    try:
        return QuantConfig(
            args.format,
            tensor_types=dict(_override(text) for text in args.tensor_type),
            imatrix=args.imatrix,
            allow_requantize=args.allow_requantize,
            pure=args.pure,
            threads=args.threads,
        )
    except InvalidConfigError as error:
        wrong_usage(args, str(error))


def _override(text: str) -> tuple[str, str]:
    pattern, equals, kind = text.rpartition("=")
    if not equals:
        raise InvalidConfigError(f"--tensor-type must be REGEX=TYPE, such as ffn_down=q6_k, not {text!r}")
    return pattern, kind


def _summary(path: str, result: QuantizationResult) -> str:
    sizes = f"{readable_size(result.input_bytes)} -> {readable_size(result.output_bytes)}"
    figures = f"{result.compression:.2f} times smaller, {result.bits_per_weight:.2f} bits a weight"
    return f"{path}: {sizes}, {figures}, {result.seconds:.1f} s"
