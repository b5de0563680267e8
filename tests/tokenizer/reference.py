"""Slow and plain tokenizers to compare with: each in a few lines, from the definition, without the library."""

from __future__ import annotations

import re
from itertools import pairwise

SPACE = "\u2581"


def merge_by_score(text: str, ids: dict[str, int], scores: list[float]) -> list[int]:
    """SentencePiece BPE: merge the two neighbours whose union has the best score, the leftmost of equals first."""
    symbols = list(text)
    while True:
        unions = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]
        if not unions:
            break
        i = min(unions)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    found: list[int] = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


def merge_by_rank(word: str, ids: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """BPE of one word: merge the pair of neighbours that comes first in the list of merges, leftmost first."""
    symbols = list(word)
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not pairs:
            return [ids[symbol] for symbol in symbols]
        i = min(pairs)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def cut_specials(text: str, specials: list[str]) -> list[str]:
    """Special tokens and what is between them: token by token, longest first, each from left to right."""
    parts = [(text, False)] if text else []
    for token in sorted(specials, key=len, reverse=True):
        cut: list[tuple[str, bool]] = []
        for part, is_token in parts:
            if is_token:
                cut.append((part, True))
                continue
            pieces = part.split(token)
            for i, piece in enumerate(pieces):
                cut += [(token, True)] * (i > 0) + [(piece, False)]
        parts = [(part, is_token) for part, is_token in cut if part]
    return [part for part, _ in parts]


def gpt2_words(text: str) -> list[str]:
    """GPT-2's cuts for ASCII text, where Python's classes are those of the original expression."""
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
    return re.findall(pattern, text)
