"""Engines over tiny random models for tests."""

from __future__ import annotations

import pytest

from densecore import DenseCore
from tests.conftest import shared_path
from tests.engine.random_requests import compute_alone
from tests.gguf_factory import make_model


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    """A random Llama with a context of 256 tokens."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny.gguf", n_layers=1)


@pytest.fixture
def tiny(tiny_path):
    with DenseCore(tiny_path) as model:
        yield model


@pytest.fixture(scope="session", params=["stories260K.gguf", "pystd-6m-q8_0.gguf"])
def alone(request):
    """Path, random requests, and the right answers: see `random_requests`."""
    path = shared_path("models", request.param)
    return path, *compute_alone(path)
