"""``densecore warmup`` leaves nothing to compile."""

from __future__ import annotations

from pathlib import Path

from densecore.kernels.cache import num_compiled
from tests.gguf_factory import make_model

from .conftest import Cli, environment, finish, start


def test_afterwards_nothing_is_compiled(cli: Cli, tmp_path: Path) -> None:
    """In an empty cache; the model mixes types, so that several kinds of kernels are needed."""
    model = make_model(tmp_path / "m.gguf", tensor_type="Q4_0", tensor_types={"*.attn_v.weight": "Q8_0"})
    env = environment(DENSECORE_CACHE_DIR=str(tmp_path / "cache"))
    status, out, err = finish(start("warmup", "-m", model, env=env))
    assert status == 0
    count = int(out.split()[1])
    assert count > 10
    assert str(tmp_path / "cache") in out
    assert err == "compiling kernels (first run on this CPU)…\n"

    status, out, err = finish(start("warmup", "-m", model, env=env))
    assert (status, err) == (0, "")
    assert out.startswith("nothing to compile")
    for prompt, *flags in (["x" * 100], ["x", "--temperature", "0"], ["x", "--min-p", "0.1", "--logit-bias", "3=1"]):
        status, _, err = finish(start("run", "-m", model, "-n", "4", prompt, *flags, env=env))
        assert status == 0
        assert "compiling" not in err


def test_in_a_process_that_has_compiled_before(cli: Cli) -> None:
    assert cli("warmup", "-q").status == 0
    before = num_compiled()
    status, out, err = cli("warmup", "-q")
    assert (status, err) == (0, "")
    assert num_compiled() == before
    assert out.startswith("nothing to compile")
