"""Tokens drawn together: the same as one by one, whatever is beside them and however many workers there are."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.config import GenerationConfig
from densecore.exceptions import InferenceError
from densecore.kernels.sampling import NOT_FINITE, NOTHING_KNOWN, Edits, Known, Settings, Workspace, sample
from densecore.kernels.sampling_rows import DRAW, edit_addresses, pack_draws, pack_row, pack_rows, sample_rows
from densecore.sampling import Sampler, Vocabulary, sample_batch
from tests.sampling.drawing import NO_EDITS, OFF, known_of

N_VOCAB = 3000


def no_even(token_ids, logits):
    logits[::2] = -np.inf


def boom(token_ids, logits):
    raise RuntimeError("boom")


def mask_all(token_ids, logits):
    logits[:] = -np.inf


REQUESTS = [
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"top_k": 40, "top_p": 0.95},
    {"top_k": 1000, "frequency_penalty": 0.5},  # more than there are blocks
    {"top_p": 0.9, "logit_bias": {5: 4.0, 2999: 4.0}},
    {"min_p": 0.05},
    {},
    {"temperature": 0, "logits_processors": [no_even]},
    {"ignore_eos": True, "logprobs": True, "top_logprobs": 2},
    {"dry_multiplier": 0.8, "top_k": 3},
    {"typical_p": 0.7},
    {"mirostat": 2},
]


def make_samplers(requests=REQUESTS):
    off = {"temperature": 0.9, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    vocabulary = Vocabulary(eog_ids=frozenset({1, 2}))
    return [
        Sampler(GenerationConfig(**(off | {"seed": i} | changes)), N_VOCAB, range(50), vocabulary=vocabulary)
        for i, changes in enumerate(requests)
    ]


def random_logits(step, count):
    """Logits (count, N_VOCAB), cut out of longer rows as a model with more rows than tokens gives them."""
    return np.random.default_rng(step).normal(0, 3, (count, N_VOCAB + 40)).astype(np.float32)[:, :N_VOCAB]


@pytest.mark.parametrize("num_workers", [1, 2, 50])
@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_together_as_alone(num_workers, order):
    alone, together = make_samplers(), make_samplers()
    for step in range(20):
        logits = random_logits(step, len(REQUESTS))
        expected = [sampler.sample(row) for sampler, row in zip(alone, logits, strict=True)]
        assert sample_batch(together[::order], logits[::order], num_workers)[::order] == expected
    assert [sampler.logprobs for sampler in together] == [sampler.logprobs for sampler in alone]


def test_what_fails_fails_alone():
    requests = [*REQUESTS[:4], {"logits_processors": [boom]}, {"logits_processors": [mask_all]}, *REQUESTS[4:]]
    logits = random_logits(0, len(requests))
    logits[0, 7], logits[2, N_VOCAB - 1], logits[3], logits[-1, 9] = np.nan, np.inf, -np.inf, np.nan
    results = sample_batch(make_samplers(requests), logits, 2)
    messages = {
        0: "the model computed nan as the logit of token 7",
        2: "the model computed inf as the logit of token 2999",
        3: "all of the 3000 logits are -inf",
        4: "the logits processor boom failed",
        5: "all of the 3000 logits are -inf",
        len(requests) - 1: "the model computed nan as the logit of token 9",
    }
    for i, (sampler, row) in enumerate(zip(make_samplers(requests), logits, strict=True)):
        if i in messages:
            assert isinstance(results[i], InferenceError)
            assert messages[i] in str(results[i])
        else:
            assert results[i] == sampler.sample(row)


def test_nothing_to_draw():
    assert sample_batch([], np.empty((0, N_VOCAB), np.float32), 2) == []


def test_read_only_logits():
    logits = random_logits(1, 1)
    logits.setflags(write=False)
    [sampler], [again] = make_samplers([{}]), make_samplers([{}])
    assert sample_batch([sampler], logits) == [again.sample(logits[0].copy())]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_rows_like_twin_and_like_one_by_one(num_workers):
    rng = np.random.default_rng(3)
    edits = Edits(np.array([4, 150], np.int32), np.array([9.0, 0.0]), np.array([-1, 2], np.int32))
    all_settings = [
        OFF._replace(temperature=0.0),
        OFF._replace(top_k=7, presence_penalty=1.0),
        OFF._replace(top_p=0.8, repetition_penalty=1.2),
        OFF._replace(max_surprise=3.0),
        OFF._replace(min_p=0.1),
    ]
    rows = [
        (rng.normal(0, 3, 300).astype(np.float32), settings, *edited, rng.random())
        for _ in range(2)
        for settings in all_settings
        for edited in ((edits, 2), (NO_EDITS, 0))
    ]
    rows.append((np.full(300, np.nan, np.float32), all_settings[0], NO_EDITS, 0, 0.5))
    draws, work = np.zeros(len(rows), DRAW), Workspace.create(300, num_workers)
    logits, settings, edits, n_edits, u = zip(*rows, strict=True)
    for name, column in zip(Settings._fields, zip(*settings, strict=True), strict=True):
        draws[name] = column
    together = np.stack(logits)
    known = [known_of(row, chosen._replace(temperature=1.0))[-1] for row, chosen, *_ in rows]
    pack_rows(draws, np.arange(len(rows)), together, Known(*map(np.stack, zip(*known, strict=True))))
    for i in range(0, len(rows), 2):
        pack_row(draws, i, logits[i])
    pack_draws(draws, [edit_addresses(edited) for edited in edits], n_edits, u)
    token_ids, by_twin = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    surprises, by_twin_too = np.empty(len(rows)), np.empty(len(rows))
    sample_rows(draws, 300, work, token_ids, surprises, np.zeros(1, np.int64))
    sample_rows.twin(draws, 300, work, by_twin, by_twin_too, np.zeros(1, np.int64))
    one_by_one = [sample(row[0], NOTHING_KNOWN, Workspace.create(len(row[0])), *row[1:]) for row in rows]
    assert token_ids.tolist() == by_twin.tolist() == one_by_one
    assert token_ids[-1] == NOT_FINITE
    np.testing.assert_allclose(surprises, by_twin_too, atol=1e-5)
