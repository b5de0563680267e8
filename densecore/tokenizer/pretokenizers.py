"""How text is cut into words before byte-level BPE: one rule for each value of ``tokenizer.ggml.pre``.

BPE never merges across a cut, so a vocabulary gives the right ids only with the cuts it was trained with. The
rules are facts about published tokenizers (their ``tokenizer.json``) under the names that llama.cpp gave them. The
regular expressions are Oniguruma's; several of them are applied one after the other, each inside the pieces that
the one before left. Every rule takes time proportional to the length of the text; tests hold them to it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "split_digits"]


def split_digits(text: str, *, only_before_boundary: bool = False) -> list[str]:
    """Cut runs of decimal digits into groups of three counted from the right: ``1234567`` into ``1 234 567``.

    Published as ``\\d{1,3}(?=(?:\\d{3})*\\b)`` and the like; those take quadratic time on a long run of digits.
    With `only_before_boundary` a run followed by a letter, mark or underscore stays whole.
    """
    cuts = [0]
    for run in re.finditer(r"\d+", text):
        start, end = run.span()
        if not (only_before_boundary and end < len(text) and _is_word(text[end])):
            cuts.append(start)
            cuts.extend(range(start + (end - start) % 3, end + 1, 3))
    cuts.append(len(text))
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _is_word(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc")


def _split_bounded_digits(text: str) -> list[str]:
    return split_digits(text, only_before_boundary=True)


@dataclass(frozen=True)
class PreTokenizer:
    """Cuts for one family of vocabularies, and what else is known by its name.

    Attributes:
        patterns: regular expressions, each match of which becomes a piece of its own.
        ignore_merges: a piece that is a token as a whole becomes that token, whatever the merges say.
        add_bos: whether BOS is added where the file does not say.
        byte_level: text is written in characters that stand for bytes; else as it is, with U+2581 for spaces.
        drops_spaces: white space only separates words, and becomes no token; lower case where the file asks for it.
        split_first: a cut before the first pattern that a regular expression cannot make in linear time.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    byte_level: bool = True
    drops_spaces: bool = False
    split_first: Callable[[str], list[str]] | None = field(default=None, repr=False)


# Building blocks. A contraction is 's, 't, ...; in most rules in any case.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_PUNCTUATION}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_PUNCTUATION}|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_MINICPM5 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_PUNCTUATION}|{_SPACES}"
_UFAKZEKA = rf"{_WORD}|\p{{N}}|{_PUNCTUATION}|{_SPACES}"
_SEED_CODER = rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_JAIS2 = (
    rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_PUNCTUATION}|\s*[\r\n]+"
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)"
    r"|\s{1,2}(?!\S)|\s{1}"
)
_BAILING = rf"'(?i:[sdmt]|ll|ve|re)|{_WORD}|\p{{N}}|{_PUNCTUATION}|\s*[\r\n]|\s+(?!\S)|\s+"
_EXAONE_MOE = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)


def _by_case(suffix: str, upper: str = _UPPER, lower: str = _LOWER) -> str:
    """Words cut where upper case follows lower case, each with an optional suffix."""
    return rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{suffix}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{suffix}"


_SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_by_case('')}|\p{{N}}|{_SLASHED}|{_SPACES}"
_GPT4O = rf"{_by_case(_CONTRACTION + '?')}|\p{{N}}{{1,3}}|{_SLASHED}|{_SPACES}"
_YOUTU = rf"{_by_case(_CONTRACTION + '?')}|\p{{N}}|{_SLASHED}|{_SPACES}"
_NO_HAN = r"&&[^\p{Han}]]"
_KIMI = (
    rf"[\p{{Han}}]+|{_by_case(_CONTRACTION + '?', _UPPER[:-1] + _NO_HAN, _LOWER[:-1] + _NO_HAN)}"
    rf"|\p{{N}}{{1,3}}|{_PUNCTUATION}|{_SPACES}"
)

# DeepSeek's rules. Cased letters are spelled out there, as a list that is older than today's \p{Lu}\p{Ll}\p{Lt}.
_CASED = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK_WORD = rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_DEEPSEEK3 = rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_SPARK = rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+"
_AFMOE_SCRIPTS = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
    f"\ufe30-\ufe4f]+|[\u3105-\u312f]+|{_CJK}"
)
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_LINES = r"[^\n]+|[\n]+"


def _table() -> Iterator[tuple[tuple[str, ...], PreTokenizer]]:
    """Names and the rule they share."""
    yield ("default",), PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
    yield (
        (
            "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code",
            "roberta-bpe", "gigachat", "a.x-4.0", "mellum", "modern-bert", "exaone4", "mpt", "olmo", "jais",
            "trillion", "granite-docling",
        ),
        PreTokenizer((_GPT2,)),
    )  # fmt: skip
    yield (
        (
            "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
            "jina-v5-nano",
        ),
        PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
    )  # fmt: skip
    yield ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), PreTokenizer((_LLAMA3,))
    yield (
        (
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "stablelm2",
            "hunyuan",
            "megrez",
            "solar-open",
            "grok-2",
        ),
        PreTokenizer((_QWEN2,)),
    )
    yield ("qwen35",), PreTokenizer((_QWEN35,))
    yield (
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
        PreTokenizer((r"\p{N}", _GPT2)),
    )
    yield ("falcon",), PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))
    yield (
        ("deepseek-llm",),
        PreTokenizer(
            (
                r"[\r\n]",
                rf"\s?[{_CASED}]+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                r"(?<!\s)\s+$",  # only from where a run of white space starts: else quadratic
                _DEEPSEEK_CJK,
                r"\p{N}+",
            )
        ),
    )
    yield ("deepseek-coder",), PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}"))
    yield (
        ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"),
        PreTokenizer((r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    )
    yield ("spark2_5",), PreTokenizer((r"\p{N}{1,3}", _CJK, _SPARK, r"\p{N}"))
    yield ("afmoe",), PreTokenizer((_AFMOE_SCRIPTS, _DEEPSEEK3), split_first=split_digits)
    yield ("youtu",), PreTokenizer((_YOUTU_SCRIPTS, _YOUTU), ignore_merges=True)
    yield ("tekken",), PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True)
    yield ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), PreTokenizer((_GPT4O,))
    yield ("granite-embed-multi-97m",), PreTokenizer((_GPT4O,), ignore_merges=True)
    yield ("tiny_aya", "cohere2moe"), PreTokenizer((_GPT4O,), split_first=_split_bounded_digits)
    yield ("superbpe",), PreTokenizer((r"\p{N}+",), split_first=split_digits)
    yield ("kimi-k2",), PreTokenizer((_KIMI,))
    yield ("minicpm5",), PreTokenizer((r"\p{N}{1,3}", _MINICPM5), ignore_merges=True)
    yield ("ufakzeka",), PreTokenizer((_UFAKZEKA,))
    yield ("seed-coder",), PreTokenizer((_SEED_CODER,))
    yield ("jais-2",), PreTokenizer((_JAIS2,))
    yield ("bailingmoe", "bailingmoe2", "llada-moe"), PreTokenizer((_BAILING,))
    yield ("exaone-moe",), PreTokenizer((_EXAONE_MOE,))
    yield ("laguna",), PreTokenizer((_LINES, _QWEN2))
    yield ("gemma4", "granite-embed-multi-311m", "sarvam-moe"), PreTokenizer((_LINES,), byte_level=False)
    yield ("whitespace",), PreTokenizer((r"\s+",), byte_level=False, drops_spaces=True)
    yield ("bloom", "poro-chat", "gpt3-finnish"), PreTokenizer((_BLOOM,))
    yield ("viking",), PreTokenizer((_BLOOM, r"\p{N}"))
    yield (
        ("chameleon",),
        PreTokenizer(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            add_bos=True,
        ),
    )


PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: rule for names, rule in _table() for name in names}
