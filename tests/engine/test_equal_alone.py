"""A thousand random requests: each gets, bit for bit, what it gets alone."""

from __future__ import annotations

import pytest

from densecore import DenseCore
from tests.engine.random_requests import MAX_LEN, PLENTY, TIGHT, assert_as_alone, cache_bytes


@pytest.mark.parametrize("tight", [False, True], ids=["plenty", "tight"])
def test_a_thousand_requests(alone, tight):
    path, requests, expected = alone
    options = TIGHT | {"kv_cache_bytes": cache_bytes(path, MAX_LEN + 8)} if tight else PLENTY
    with DenseCore(path, **options) as model:
        metrics = assert_as_alone(model, requests, expected)
    assert metrics["prompt_tokens_cached_total"] > 1000
    assert metrics["preemptions_total"] >= (100 if tight else 0)
