"""schemathesis asks what the server's own OpenAPI document allows, and what it does not.

No answer is a 5xx but a documented 501 or 503, each is as documented, and none takes long. By default there are some
hundred cases; DENSECORE_FUZZ_CASES says how many::

    DENSECORE_FUZZ_CASES=5000 python -m pytest tests/server/test_schema.py -s
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import load_all_checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from .conftest import Running, running

NUM_CASES = int(os.environ.get("DENSECORE_FUZZ_CASES", "300"))
SECONDS = 10.0  # that an answer may take; the model writes 256 tokens at most
EASY = {"messages", "prompt", "content", "tokens", "stream", "stream_options", "echo", "stop", "user", "tools"}
CHECKS = (status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[Running]:
    with running({"tiny": tiny_path}) as found:
        yield found
        answer = found.post("/v1/completions", prompt="ab", max_tokens=2, ignore_eos=True)
        assert answer.json()["usage"]["completion_tokens"] == 2
        found.wait_until_idle()


def check(case: Any, url: str, statuses: Counter) -> None:
    """Ask, and compare the answer with the document."""
    if isinstance(case.body, dict) and statuses.total() % 2:  # else there would always be something wrong
        case.body = {name: value for name, value in case.body.items() if name in EASY}
    started = time.monotonic()
    answer = case.call(base_url=url, timeout=2 * SECONDS)
    assert time.monotonic() - started < SECONDS
    statuses[answer.status_code] += 1
    assert answer.status_code < 500 or answer.status_code in (501, 503), answer.text
    if answer.status_code != 405:  # what is asked with another method is no operation of the document
        case.validate_response(answer, checks=CHECKS)


def test_every_operation(server: Running) -> None:
    load_all_checks()
    schema = schemathesis.openapi.from_dict(server.http.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations()]
    bodies = [operation for operation in operations if len(operation.body)]  # where there is something to get wrong
    bodies.sort(key=lambda operation: len(json.dumps(operation.definition.raw)))  # the last have enough to vary
    strategies = [operation.as_strategy() for operation in operations if operation not in bodies]
    few = -(-NUM_CASES // (len(strategies) + 4 * len(bodies)))
    statuses: Counter = Counter()
    for strategy in strategies:  # of which some have only one case
        fuzz(strategy, few, server, statuses)
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    strategies = [operation.as_strategy(generation_mode=mode) for operation in bodies for mode in modes]
    for done, strategy in enumerate(strategies):
        left = NUM_CASES - statuses.total()
        fuzz(strategy, -(-left // (len(strategies) - done)), server, statuses)
    print(f"\n{statuses.total()} cases: {dict(sorted(statuses.items()))}")
    assert statuses.total() >= NUM_CASES


def fuzz(strategy: Any, count: int, server: Running, statuses: Counter) -> None:
    @hypothesis.given(strategy)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    def run(case: Any) -> None:
        check(case, server.url, statuses)

    run()
