"""``densecore warmup`` leaves nothing to compile."""

from __future__ import annotations

from pathlib import Path

from densecore import DenseCore
from densecore.kernels.cache import num_compiled
from tests.encoder_factory import make_encoder
from tests.gguf_factory import make_model

from .conftest import Cli, environment, finish, start


def test_afterwards_nothing_is_compiled(tmp_path: Path) -> None:
    """In an empty cache, with the type that compiles fastest."""
    model = make_model(tmp_path / "m.gguf", tensor_type="F32")
    env = environment(DENSECORE_CACHE_DIR=str(tmp_path / "cache"))
    status, out, err = finish(start("warmup", "-m", model, env=env))
    assert status == 0
    assert int(out.split()[1]) > 10
    assert str(tmp_path / "cache") in out
    assert err == "compiling kernels (first run on this CPU)…\n"

    flags = ("-n", "4", "--min-p", "0.1", "--logit-bias", "3=1")
    status, _, err = finish(start("run", "-m", model, "x" * 100, *flags, env=env))
    assert status == 0
    assert "compiling" not in err


def test_an_encoder(cli: Cli, tmp_path: Path) -> None:
    model = str(make_encoder(tmp_path / "m.gguf"))
    assert cli("warmup", "-q", "-m", model).status == 0
    before = num_compiled()
    with DenseCore(model) as loaded:
        loaded.embed("the cat sat on the mat", "mean")
    assert num_compiled() == before
    status, _, err = cli("run", "-m", model, "the cat")
    assert status == 1
    assert "bert is an encoder" in err


def test_in_a_process_that_has_compiled_before(cli: Cli) -> None:
    assert cli("warmup", "-q").status == 0
    before = num_compiled()
    status, out, err = cli("warmup", "-q")
    assert (status, err) == (0, "")
    assert num_compiled() == before
    assert out.startswith("nothing to compile")
