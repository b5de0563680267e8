"""``densecore info``: figures that other sources confirm, for files of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from densecore.cli import support
from densecore.data import builtin_model_path
from densecore.kernels.formats import FORMATS
from densecore.models import ARCHITECTURES, ENCODERS
from tests.conftest import shared_path
from tests.encoder_factory import make_encoder
from tests.gguf_factory import ARCHITECTURES as FACTORY_ARCHITECTURES
from tests.gguf_factory import make_model

from .conftest import Cli

MIB = 2**20


def info(cli: Cli, *arguments: object) -> dict:
    status, out, err = cli("info", *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_what_is_said_to_be_supported_is() -> None:
    assert set(support.ARCHITECTURES) == set(ARCHITECTURES)
    assert set(support.ENCODERS) == set(ENCODERS)
    assert support.tensor_types() == set(FORMATS)


def test_the_model_is_named_by_position_or_by_flag(cli: Cli) -> None:
    assert info(cli, builtin_model_path()) == info(cli, "--model", builtin_model_path())


def test_builtin_model(cli: Cli) -> None:
    facts = info(cli)
    assert facts["supported"]
    assert facts["parameters"] == 5_770_496  # README-pystd.md
    assert facts["file_bytes"] == builtin_model_path().stat().st_size
    assert facts["context_length"] == 256
    dimensions = {name: facts[name] for name in ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "head_dim")}
    assert dimensions == {
        "dim": 256, "hidden_dim": 768, "n_layers": 6, "n_heads": 4, "n_kv_heads": 2, "head_dim": 64,
    }  # fmt: skip
    assert facts["vocabulary"]["size"] == 4096
    assert facts["vocabulary"]["special"]["bos"] == {"id": 0, "text": "<|endoftext|>"}
    assert not facts["chat_template"]["present"]


def test_types_and_sizes_as_the_gguf_package_sees_them(cli: Cli) -> None:
    tensors = gguf.GGUFReader(builtin_model_path()).tensors
    facts = info(cli, "--tensors")
    assert [tensor["name"] for tensor in facts["tensors"]] == [tensor.name for tensor in tensors]
    assert [tensor["n_bytes"] for tensor in facts["tensors"]] == [int(tensor.n_bytes) for tensor in tensors]
    for row in facts["tensor_types"]:
        own = [tensor for tensor in tensors if tensor.tensor_type.name == row["type"]]
        assert (row["tensors"], row["bytes"]) == (len(own), sum(int(tensor.n_bytes) for tensor in own))
    assert sum(row["share"] for row in facts["tensor_types"]) == pytest.approx(1)


@pytest.mark.parametrize(("ctx_size", "tokens"), [(None, 256), (100, 128), (1024, 1024)])
def test_memory_of_the_cache(cli: Cli, ctx_size: int | None, tokens: int) -> None:
    """2 (keys, values) x 6 layers x 2 heads x 64 elements, in whole blocks of 32 tokens."""
    memory = info(cli, *([] if ctx_size is None else ["--ctx-size", ctx_size]))["memory"]
    assert memory["ctx_size"] == (ctx_size or 256)
    assert memory["kv_cache_f16_bytes"] == 2 * 6 * 2 * 64 * tokens * 2
    assert memory["kv_cache_f32_bytes"] == 2 * 6 * 2 * 64 * tokens * 4
    assert memory["kv_cache_q8_0_bytes"] == 2 * 6 * 2 * 64 * tokens * 34 // 32


def test_announced_cache_is_the_one_allocated(cli: Cli) -> None:
    from densecore import DenseCore

    with DenseCore(builtin_model_path(), max_num_seqs=1) as model:
        assert info(cli)["memory"]["kv_cache_f16_bytes"] == model.get_metrics()["kv_cache_bytes"]


def test_stories260k(cli: Cli) -> None:
    facts = info(cli, shared_path("models", "stories260K.gguf"))
    assert facts["supported"]
    assert facts["name"] == "stories260K"
    assert [row["type"] for row in facts["tensor_types"]] == ["F32"]
    assert facts["vocabulary"]["kind"] == "llama"
    assert facts["vocabulary"]["size"] == 512


@pytest.mark.parametrize("arch", FACTORY_ARCHITECTURES)
def test_models_of_the_factory(cli: Cli, tmp_path: Path, arch: str) -> None:
    path = make_model(tmp_path / "m.gguf", arch, tensor_type="Q8_0", n_parts=2)
    facts = info(cli, path)
    assert facts["supported"], facts["reasons_against"]
    assert facts["architecture"] == arch
    assert facts["files"] == 2
    assert {row["type"] for row in facts["tensor_types"]} == {"Q8_0", "F32"}


@pytest.mark.parametrize("arch", sorted(ENCODERS))
def test_encoders(cli: Cli, tmp_path: Path, arch: str) -> None:
    facts = info(cli, make_encoder(tmp_path / "m.gguf", arch))
    assert facts["supported"], facts["reasons_against"]
    assert facts["memory"]["kv_cache_f16_bytes"] is None


@pytest.mark.parametrize("name", ["bert-bge", "gpt-2", "llama-bpe", "llama-spm", "qwen2"])
def test_files_with_a_vocabulary_only(cli: Cli, name: str) -> None:
    facts = info(cli, shared_path("vocabs", f"ggml-vocab-{name}.gguf"))
    assert not facts["supported"]
    assert "vocabulary only" in facts["reasons_against"][0]
    assert facts["vocabulary"]["size"] > 30000
    assert facts["chat_template"]["present"] == (name == "qwen2")


def test_architectures_that_cannot_be_run(cli: Cli, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m.gguf", metadata_overrides={"general.architecture": "mamba"})
    facts = info(cli, path)
    assert not facts["supported"]
    assert cli("run", "-m", path, "x").status == 1  # indeed
    assert "supported       no, because " in cli("info", path).out


@pytest.mark.parametrize(("name", "experts"), [("mixtral", 4), ("deepseek2", 8), ("gpt-oss", 4), ("qwen3moe", 8)])
def test_experts(cli: Cli, name: str, experts: int) -> None:
    facts = info(cli, shared_path("archs", f"{name}-f32.gguf"))
    assert facts["supported"], facts["reasons_against"]
    assert facts["n_experts"] == experts


def test_types_without_kernels_are_named(cli: Cli, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m.gguf", tensor_types={"*.ffn_up.weight": "I32"})
    facts = info(cli, path)
    assert facts["reasons_against"] == ["there are no kernels for tensors of type I32"]


def test_odd_metadata_is_shown_as_it_is(cli: Cli, tmp_path: Path) -> None:
    overrides = {"general.name": "evil\x1b[2J\nname", "llama.context_length": "many", "tokenizer.ggml.model": "odd"}
    path = make_model(tmp_path / "m.gguf", metadata_overrides=overrides)
    facts = info(cli, path)
    assert facts["context_length"] is None
    assert facts["memory"]["kv_cache_f16_bytes"] is None
    assert "not supported" in facts["vocabulary"]["problem"]
    text = cli("info", path).out
    assert "evil [2J name" in text
    assert "\x1b" not in text


def test_text_for_people(cli: Cli) -> None:
    status, out, err = cli("info", "--tensors")
    assert (status, err) == (0, "")
    for words in ("pystd-6m", "supported       yes", "5,770,496", "43 tensors", "256 x 768", "KV cache", "ChatML"):
        assert words in out


def test_names_that_are_not_utf8(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "\udcff.gguf"
    path.symlink_to(builtin_model_path())
    status, out, err = cli("info", path)
    assert (status, err) == (0, "")
    assert "pystd-6m" in out


def test_needs_no_compiler() -> None:
    code = "import sys; from densecore.cli import main; main(['info']); print('numba' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "False\n"
