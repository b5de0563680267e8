"""Arguments that several verbs share, and the objects that they become."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from densecore.cli.downloads import local_path
from densecore.cli.parser import wrong_usage
from densecore.config import KV_CACHE_DTYPES, PINNING_POLICIES, EngineConfig, GenerationConfig
from densecore.exceptions import InvalidConfigError

__all__ = [
    "add_engine_arguments",
    "add_lora_argument",
    "add_model_argument",
    "add_placement_arguments",
    "add_sampling_arguments",
    "add_speculation_arguments",
    "engine_config",
    "generation_config",
    "is_builtin",
    "model_path",
    "positive_integer",
]

# For the built-in model: chosen by eye, so that its code looks like code; its context is 256 tokens.
BUILTIN_SAMPLING: dict[str, Any] = {"temperature": 0.7, "min_p": 0.05, "max_tokens": 160}

_SAMPLING_HELP = {
    "max_tokens": "tokens to generate at most",
    "temperature": "0 always takes the most probable token; higher is more varied",
    "top_k": "choose among the K most probable tokens only; 0 is off",
    "top_p": "choose among the most probable tokens that together have probability P; 1 is off",
    "min_p": "drop tokens less probable than this fraction of the most probable one; 0 is off",
    "typical_p": "choose among the tokens of most typical surprise that together have probability P; 1 is off",
    "top_n_sigma": "drop tokens this many standard deviations of the logits below the highest; 0 is off",
    "xtc_probability": "how often to leave out the most probable tokens; 0 is off",
    "xtc_threshold": "which ones: those that have this probability, but for the least probable of them",
    "mirostat": "2 holds the surprise of the text constant, instead of the filters above; 0 is off",
    "mirostat_tau": "that surprise, in bits a token",
    "mirostat_eta": "how fast mirostat learns",
    "repetition_penalty": "above 1: make tokens of prompt and output less probable; 1 is off",
    "presence_penalty": "subtracted from the logits of tokens in the output; 0 is off",
    "frequency_penalty": "the same, for each time that a token occurs in the output; 0 is off",
    "dry_multiplier": "strength of the penalty for what would lengthen a repetition (DRY); 0 is off",
    "dry_base": "by what that penalty grows with each repeated token",
    "dry_allowed_length": "length of repetitions, in tokens, that get the multiplier as it is; shorter ones are free",
    "dry_penalty_last_n": "tokens to look back at for repetitions; -1 is all",
    "min_tokens": "no end of generation before this many tokens",
    "seed": "makes sampling repeatable",
    "timeout": "give up after this many seconds",
}
_ENGINE_NAMES = (
    "threads",
    "max_model_len",
    "kv_cache_dtype",
    "pinning",
    "numa_node_id",
    "speculation",
    "num_speculative_tokens",
)
_SAMPLING_NAMES = {"max_tokens": ["-n", "--max-tokens"]}
_INTEGERS = ("max_tokens", "top_k", "seed", "mirostat", "dry_allowed_length", "dry_penalty_last_n", "min_tokens")


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """``--model``."""
    parser.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        help="GGUF file, or owner/name:Q4_K_M on the Hub (default: the built-in model, which writes Python code)",
    )


def positive_integer(text: str) -> int:
    """An argument's type: a whole number from 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def is_builtin(args: argparse.Namespace) -> bool:
    """Whether no model was named."""
    return args.model is None


def model_path(args: argparse.Namespace) -> Path:
    """The model's file: the one that was named, downloaded if need be, or the one that ships with the package."""
    if args.model is not None:
        return local_path(args.model, quiet=getattr(args, "quiet", False))
    from densecore.data import builtin_model_path

    return builtin_model_path()


LONGEST = "longest text in tokens, prompt and output together (default: what the model was trained for)"


def add_engine_arguments(parser: argparse.ArgumentParser, *, context: str = LONGEST) -> None:
    """How the machine is used: the fields of `EngineConfig` that matter for one user; `context` is a help text."""
    group = parser.add_argument_group("machine")
    group.add_argument("-t", "--threads", type=int, metavar="N", help="worker threads (default: physical cores)")
    group.add_argument(
        "-c",
        "--ctx-size",
        "--max-model-len",
        dest="max_model_len",
        type=int,
        metavar="N",
        help=context,
    )
    group.add_argument("--kv-cache-dtype", choices=KV_CACHE_DTYPES, help="type of keys and values (default f16)")
    add_placement_arguments(group)


def add_speculation_arguments(parser: argparse.ArgumentParser) -> None:
    """Several tokens a step: the same text, sooner."""
    group = parser.add_argument_group("speculation")
    group.add_argument(
        "--draft-model",
        metavar="MODEL",
        help="smaller GGUF file, or owner/name on the Hub, with the same vocabulary, whose guesses are verified",
    )
    group.add_argument(
        "--speculate",
        dest="speculation",
        action="store_const",
        const="prompt-lookup",
        help="guess that what was written once is written again",
    )
    group.add_argument(
        "--num-speculative-tokens", type=int, metavar="N", help="tokens that are guessed at a time (default 4)"
    )


def add_lora_argument(parser: argparse.ArgumentParser) -> None:
    """``--lora``."""
    parser.add_argument(
        "--lora",
        dest="lora_path",
        type=_path_and_scale,
        action="append",
        metavar="PATH[:SCALE]",
        help="LoRA adapter in a GGUF file, for this model; SCALE is 1 as it was trained; may be given several times",
    )


def _path_and_scale(text: str) -> tuple[str, float]:
    path, colon, scale = text.rpartition(":")
    try:
        return (path, float(scale)) if colon and path else (text, 1.0)
    except ValueError:  # the colon belongs to the path
        return text, 1.0


def add_placement_arguments(group: Any) -> None:
    """Where threads run."""
    group.add_argument("--pinning", choices=PINNING_POLICIES, help="where threads run (default scatter)")
    group.add_argument(
        "--numa-node",
        dest="numa_node_id",
        type=int,
        metavar="N",
        help="threads and memory on this NUMA node alone (default -1: all nodes)",
    )


def engine_config(args: argparse.Namespace, max_num_seqs: int = 1) -> EngineConfig:
    """The engine's settings as given, for `max_num_seqs` requests at once. Wrong values end with status 2."""
    given = {name: getattr(args, name, None) for name in _ENGINE_NAMES}
    try:
        return EngineConfig(max_num_seqs=max_num_seqs, **{k: value for k, value in given.items() if value is not None})
    except InvalidConfigError as error:
        wrong_usage(args, str(error))


def add_sampling_arguments(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """A flag for each field of `GenerationConfig` that matters for one user; `defaults` are this verb's own."""
    group = parser.add_argument_group("sampling")
    known = {field.name: field.default for field in dataclasses.fields(GenerationConfig)} | defaults
    for name, text in _SAMPLING_HELP.items():
        default = "" if known[name] is None else f" (default {known[name]})"
        group.add_argument(
            *_SAMPLING_NAMES.get(name, ["--" + name.replace("_", "-")]),
            type=int if name in _INTEGERS else float,
            metavar="N" if name in _INTEGERS else "X",
            help=text + default,
        )
    group.add_argument(
        "--stop",
        dest="stop_sequences",
        action="append",
        metavar="TEXT",
        help="end before this text; may be given several times",
    )
    group.add_argument(
        "--logit-bias",
        type=_logit_bias,
        action="append",
        metavar="ID=VALUE",
        help="add VALUE (-100 to 100) to the logit of token ID; may be given several times",
    )
    group.add_argument(
        "--dry-sequence-breaker",
        dest="dry_sequence_breakers",
        action="append",
        metavar="TEXT",
        help='repetitions end at tokens with this text; may be given several times (default: line break : " *)',
    )
    group.add_argument(
        "--bad-word",
        dest="bad_words",
        action="append",
        metavar="TEXT",
        help="text that is not to be written, by tokens; may be given several times",
    )
    group.add_argument("--ignore-eos", action="store_true", default=None, help="no end of generation by the model")
    group.add_argument(
        "--context-shift",
        action="store_true",
        default=None,
        help="go on when the context is full: forget the older half but its first tokens",
    )
    _add_structure_arguments(parser)


def _add_structure_arguments(parser: argparse.ArgumentParser) -> None:
    """What the output must look like: one of these."""
    group = parser.add_argument_group("structured output").add_mutually_exclusive_group()
    group.add_argument(
        "--json", "--json-mode", dest="json_mode", action="store_true", default=None, help="a JSON object"
    )
    group.add_argument("--json-schema", type=_file_text, metavar="FILE", help="JSON that is valid under this schema")
    group.add_argument("--regex", metavar="REGEX", help="text that matches a regular expression")
    group.add_argument("--choice", action="append", metavar="TEXT", help="one of the texts; give it several times")
    group.add_argument(
        "--grammar", type=_file_text, metavar="FILE", help="text that follows a grammar, in Lark syntax or GBNF"
    )


def _file_text(path: str) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {reason}") from None


def _logit_bias(text: str) -> tuple[int, float]:
    token_id, _, value = text.partition("=")
    try:
        return int(token_id), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=VALUE, such as 42=-100") from None


def generation_config(args: argparse.Namespace, **defaults: Any) -> GenerationConfig:
    """The sampling settings: what was given, else `defaults`, else `GenerationConfig`'s. Wrong values: status 2."""
    values = {name: getattr(args, name, None) for name in GenerationConfig.names()}
    given = {name: value for name, value in values.items() if value is not None}
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    try:
        return GenerationConfig(**(defaults | given))
    except InvalidConfigError as error:
        wrong_usage(args, str(error))
