"""Which ``tokenizer.ggml.pre`` a checkpoint's tokenizer is: found by what it does to a text, not by its name.

The regular expressions in ``tokenizer.json`` are written in several ways, and steps stand for others of them; so the
cuts that they make are compared with those of each known rule, on a text that tells the rules apart.
"""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

from densecore.convert.vocabulary.source import TokenizerSource, steps
from densecore.convert.vocabulary.special import load_pipeline
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


def recognize_pre_tokenizer(source: TokenizerSource) -> str:
    """The name of the known rule that cuts as the checkpoint does; ModelLoadError if there is none."""
    cut = load_pipeline(source).pre_tokenizer
    wanted = _pieces_of(cut)
    ignore_merges = bool(source.model.get("ignore_merges", False))
    candidates = [name for name, rule in PRE_TOKENIZERS.items() if cuts_of(rule) == wanted]
    for name in candidates:
        if PRE_TOKENIZERS[name].ignore_merges == ignore_merges:
            return name
    if candidates:  # whole words that merges do not make are rare; cuts are what counts
        return candidates[0]
    shown = [step.get("pattern", step.get("type")) for step in steps(source.description, "pre_tokenizer")]
    allowed = f"cuts as one of {len(PRE_TOKENIZERS)} known rules makes them, or one that is named (--pre)"
    raise source.error("pre_tokenizer", f"is not known: {describe(shown, 200)}", allowed)


def cuts_of(rule: PreTokenizer) -> list[str]:
    """The pieces of PROBE by a rule."""
    cuts = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns])
    parts = rule.split_first(PROBE) if rule.split_first else [PROBE]
    return [piece for part in parts for piece, _ in cuts.pre_tokenize_str(part)]


def _pieces_of(cut: pre_tokenizers.PreTokenizer | None) -> list[str]:
    """The pieces of PROBE by a checkpoint, as slices of the text: steps may also rewrite it in bytes."""
    if cut is None:
        return [PROBE]
    return [PROBE[start:end] for _, (start, end) in cut.pre_tokenize_str(PROBE)]
