"""DRY against the loops of its first implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecore.config import GenerationConfig
from densecore.engine.samplers import SamplerFactory
from densecore.sampling import Sampler, Vocabulary
from densecore.sampling.dry import Dry


def config(**changes):
    plain = {"temperature": 0, "repetition_penalty": 1.0, "dry_multiplier": 0.8}
    return GenerationConfig(**(plain | changes))


def oracle(token_ids, breakers, multiplier, base, allowed_length):
    """text-generation-webui's DRYLogitsProcessor, for one sequence: what is subtracted from each token's logit."""
    if not token_ids or token_ids[-1] in breakers:
        return {}
    lengths = {}
    for i in range(len(token_ids) - 1):
        if token_ids[i] != token_ids[-1] or token_ids[i + 1] in breakers:
            continue
        length = 1
        while i - length >= 0:
            previous = token_ids[-(length + 1)]
            if token_ids[i - length] != previous or previous in breakers:
                break
            length += 1
        lengths[token_ids[i + 1]] = max(length, lengths.get(token_ids[i + 1], 0))
    return {i: multiplier * base ** (n - allowed_length) for i, n in lengths.items() if n >= allowed_length}


@settings(max_examples=400, deadline=None)
@given(
    token_ids=st.lists(st.integers(0, 3), max_size=60),
    breakers=st.sets(st.integers(0, 3), max_size=2),
    base=st.sampled_from([1.0, 1.2, 1.75]),
    allowed_length=st.integers(1, 4),
    last_n=st.sampled_from([-1, 0, 1, 7, 1000]),
)
def test_like_the_first_implementation(token_ids, breakers, base, allowed_length, last_n):
    chosen = config(dry_base=base, dry_allowed_length=allowed_length, dry_penalty_last_n=last_n)
    seen = token_ids if last_n < 0 else token_ids[len(token_ids) - min(last_n, len(token_ids)) :]
    expected = oracle(seen, breakers, 0.8, base, allowed_length)
    penalties = Dry(chosen, lambda ids, position: ids[position] in breakers).penalties(token_ids)
    enough = 1e5  # beyond this a token is ruled out, and longer repetitions are not told apart
    assert {i: min(p, enough) for i, p in penalties.items()} == {i: min(p, enough) for i, p in expected.items()}


def test_a_long_repetition_is_quick_and_finite():
    penalties = Dry(config(), lambda ids, position: False).penalties([1] * 20000)
    assert list(penalties) == [1]
    assert 1e5 < penalties[1] < 1e8


@pytest.mark.parametrize(("multiplier", "expected"), [(0.4, 3), (0.6, 4)])
def test_penalty_is_subtracted_from_the_logit(multiplier, expected):
    logits = np.array([0, 0, 0, 1.5, 1], np.float32)
    assert Sampler(config(dry_multiplier=multiplier), 5, [1, 2, 3, 1, 2]).sample(logits) == expected


def test_breakers_of_the_vocabulary():
    logits = np.array([0, 0, 0, 1.5, 1], np.float32)
    breaking = Vocabulary(is_breaker=lambda ids, position: ids[position] == 1)
    assert Sampler(config(), 5, [1, 2, 3, 1, 2]).sample(logits) == 4
    assert Sampler(config(), 5, [1, 2, 3, 1, 2], vocabulary=breaking).sample(logits) == 3


def test_output_counts_too():
    sampler = Sampler(config(dry_allowed_length=1), 3, [0])
    logits = np.array([1, 0.9, 0], np.float32)
    assert [sampler.sample(logits) for _ in range(4)] == [0, 1, 0, 0]  # 0 again: all that came before is punished


class Letters:
    """A tokenizer whose tokens are the letters a, b, ..., and the text that begins with token 26."""

    texts = (*(chr(ord("a") + i).encode() for i in range(26)), b"xyz", b"")

    def token_bytes(self, token_id):
        return self.texts[token_id]


@pytest.mark.parametrize(
    ("breakers", "text", "expected"),
    [
        (["c"], "abcab", [2]),  # the positions that break
        (["bc"], "abcac", [2]),
        (["abc", "b"], "abcab", [1, 2, 4]),
        (["wxyz"], [22, 26], [1]),
        (["yz"], [26, 0], [0]),  # within a token
        (["y"], [26, 24], [0, 1]),
        (["xyza"], [26, 27, 0], [2]),  # a control token between has no text
        (["xyzx"], [26, 26], [1]),
        (["zz"], [26, 25, 25], [1, 2]),
        ([], "abc", []),
    ],
    ids=str,
)
def test_a_breaker_may_be_spread_over_tokens(breakers, text, expected):
    token_ids = [ord(letter) - ord("a") for letter in text] if isinstance(text, str) else text
    is_breaker = SamplerFactory(Letters(), 28)._breaker(tuple(breakers))
    assert [position for position in range(len(token_ids)) if is_breaker(token_ids, position)] == expected


def test_a_repetition_ends_at_a_breaker_of_several_tokens():
    tokens = [ord(letter) - ord("a") for letter in "qabxyqabxy"]
    for breakers, penalised in (((), {16: 5}), (("xy",), {}), (("ab",), {16: 2})):
        is_breaker = SamplerFactory(Letters(), 28)._breaker(breakers)
        penalties = Dry(config(dry_base=2.0, dry_allowed_length=2), is_breaker).penalties(tokens)
        assert {i: 2 + round(np.log2(p / 0.8)) for i, p in penalties.items()} == penalised
