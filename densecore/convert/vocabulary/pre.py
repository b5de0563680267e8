"""Which ``tokenizer.ggml.pre`` a checkpoint's tokenizer is: found by what it does to a text, not by its name.

The regular expressions in ``tokenizer.json`` are written in several ways, and steps stand for others of them; so the
cuts that they make are compared with those of each known rule, on a text that tells the rules apart.
"""

from __future__ import annotations

import warnings

from tokenizers import Regex, pre_tokenizers

from densecore.convert.vocabulary.pipeline import library_errors, load_pipeline
from densecore.convert.vocabulary.source import TokenizerSource, steps
from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import describe
from densecore.tokenizer.pretokenizers import PRE_TOKENIZERS, PreTokenizer

__all__ = ["PROBE", "cuts_of", "recognize_pre_tokenizer"]

PROBE = (
    "Hello world, it's HE'S I'LL we'Ve don'T 'tis rock'n'roll  two   three    four     five\n \n\n\t\tx = 1;\r\n"
    "\r\n  end \n1 12 123 1234 12345 1234567 3.14 1,000,000 0x1F v2 a1b2 5th 1st ٣٤٥٦ Ⅷ ½ x² 12:30 2024-01-02 \t\n"
    " tab\t\tstop   \ncamelCase CamelCase HTTPServer iPhone ABCdef ǅungla snake_case kebab-case path/to/file "
    "C:\\dir http://a.b/c?d=e&f foo(bar)[0]{x}<y>!=z&&w||v ... !!! ?? --- ___ === /* */ // # @user $5 50% ^~`` "
    '"quoted" «guillemets» „low“ — – …\n/\nÜbergröße naïve café e\u0301a\u0300 наука ελληνικά עברית العربية हिन्दी '
    "ภาษาไทย ລາວ ខ្មែរ မြန်မာ 中文字符，你好。 日本語 ひらがな カタカナ 한국어 ㄱㄴ ㄅㄆ 我想在apple工作1314151天～ "
    "🚀🦙😶\u200d🌫️ ✅ \u00a0nbsp\u3000wide\u2009thin 'a ‘b’ don’t 'S\n\n\n   \n  (a) .5 -7 +3 a\n        eight"
    "                 more than sixteen\nA\n B\n\n  C 'D 'M 'RE\r\r\n(IMGIMGAAZ) <sentinel:12> ．！ '\u4f60\u597d "
    "1a 12b 123c 1234d x\u0301 a  12 b   3 it'stuff we'reX I'LLy"
)


_ASCII_PROBE = "".join(char for char in PROBE if char.isascii())


def recognize_pre_tokenizer(source: TokenizerSource) -> str:
    """The name of the known rule that cuts as the checkpoint does; ModelLoadError if there is none.

    A few published tokenizers cut inside of characters beyond ASCII, by accident, which no rule does: if ASCII text
    leaves no doubt, its rule is taken, with a warning.
    """
    cut = load_pipeline(source).pre_tokenizer
    ignore_merges = bool(source.model.get("ignore_merges", False))
    with library_errors(source):
        names = _rules_that_cut(PROBE, cut)
    if not names:
        names = _rules_that_cut(_ASCII_PROBE, cut)
        if len({PRE_TOKENIZERS[name].patterns for name in names}) != 1:
            raise _unknown(source)
        warnings.warn(
            f"{source.path}: its pre-tokenizer is {names[0]} for ASCII text only: ids of other text may differ",
            RuntimeWarning,
            stacklevel=2,
        )
    # Whole words that merges do not make are rare: cuts count more.
    return next((name for name in names if PRE_TOKENIZERS[name].ignore_merges == ignore_merges), names[0])


def cuts_of(rule: PreTokenizer, text: str = PROBE) -> list[str]:
    """The pieces of `text` by a rule."""
    cuts = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns])
    parts = rule.split_first(text) if rule.split_first else [text]
    return [piece for part in parts for piece, _ in cuts.pre_tokenize_str(part)]


def _rules_that_cut(text: str, cut: pre_tokenizers.PreTokenizer | None) -> list[str]:
    """Names of the rules that cut `text` where a checkpoint does, whose steps may also rewrite it in bytes."""
    if cut is None:
        return []
    wanted = [text[start:end] for _, (start, end) in cut.pre_tokenize_str(text)]
    return [name for name, rule in PRE_TOKENIZERS.items() if rule.byte_level and cuts_of(rule, text) == wanted]


def _unknown(source: TokenizerSource) -> ModelLoadError:
    shown = [step.get("pattern", step.get("type")) for step in steps(source.description, "pre_tokenizer")]
    allowed = f"cuts as one of {len(PRE_TOKENIZERS)} known rules makes them, or one that is named (--pre)"
    return source.error("pre_tokenizer", f"is not known: {describe(shown, 200)}", allowed)
