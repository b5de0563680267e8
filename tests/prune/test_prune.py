"""Pruned models: what remains, bit for bit; that they run; and that measured importance beats chance."""

from __future__ import annotations

import dataclasses
import re
import statistics
from pathlib import Path

import gguf
import numpy as np
import pytest

import densecore.prune as package
from densecore import DenseCore, DenseCoreError, InvalidConfigError, ModelLoadError
from densecore.data import builtin_model_path
from densecore.gguf import GGUFFile, GGUFWriter
from densecore.perplexity import measure_perplexity
from densecore.prune import DEPTH_PRUNE_25_CFG, DEPTH_PRUNE_50_CFG, PRESETS, PruneConfig, plot_importance, prune_model
from tests.conftest import shared_path
from tests.quantize.full_disk import full_disk

TEXT = (Path(__file__).parents[1] / "conftest.py").read_text() * 3


@pytest.fixture(scope="module")
def source() -> Path:
    return shared_path("models", "pystd-6m-f16.gguf")


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors by name, as the gguf package reads them."""
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


def test_presets() -> None:
    assert PruneConfig() == DEPTH_PRUNE_25_CFG
    assert (DEPTH_PRUNE_50_CFG.strategy, DEPTH_PRUNE_50_CFG.ratio) == ("depth", 0.5)
    assert all(getattr(package, name) is config for name, config in PRESETS.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "height"}, "strategy must be one of depth, width, attention, combined"),
        ({"importance_method": "luck"}, "importance_method must be one of magnitude, l2_norm, activation"),
        ({"ratio": 0}, "ratio must be a number above 0"),
        ({"target_n_layer": 0}, "target_n_layer must be an integer from 1"),
        ({"strategy": "width", "target_n_layer": 2}, "the strategy width leaves that as it is: take depth or combined"),
    ],
)
def test_wrong_configurations(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidConfigError, match=re.escape(message)):
        PruneConfig(**arguments)


def test_layers_that_remain_keep_their_bits(tmp_path: Path) -> None:
    """Also of a quantized model: whole layers need not be read."""
    target = tmp_path / "out.gguf"
    result = prune_model(builtin_model_path(), target, PruneConfig(target_n_layer=4))
    assert (result.n_layers, len(result.layers), len(result.layer_importance)) == (4, 4, 6)
    left_out = set(range(6)) - set(result.layers)
    assert max(result.layer_importance[n] for n in left_out) <= min(result.layer_importance[n] for n in result.layers)
    before, after = tensors(builtin_model_path()), tensors(target)
    for new, old in enumerate(result.layers):
        for name in (name for name in before if name.startswith(f"blk.{old}.")):
            assert (after[name.replace(f"blk.{old}.", f"blk.{new}.")] == before[name]).all()
    assert len(after) == len(before) - 2 * sum(name.startswith("blk.0.") for name in before)
    assert gguf.GGUFReader(target).fields["llama.block_count"].contents() == 4
    with DenseCore(target) as model:
        assert np.isfinite(model.forward([0, 5, 9])).all()


def test_width_cuts_rows_and_columns_alike(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    result = prune_model(source, target, PruneConfig("width", target_dim=128, target_hidden_dim=512))
    assert (result.dim, result.hidden_dim, result.n_layers, result.n_heads) == (128, 512, 6, 4)
    before, after = tensors(source), tensors(target)
    embedding = before["token_embd.weight"]  # (n_vocab, dim)
    dims = [d for d in range(256) if any((embedding[:, d] == column).all() for column in after["token_embd.weight"].T)]
    assert len(dims) == 128
    up, down = before["blk.3.ffn_up.weight"], after["blk.3.ffn_down.weight"]  # (hidden, dim), (dim, hidden)
    rows = [r for r in range(768) if (up[r, dims] == after["blk.3.ffn_up.weight"]).all(1).any()]
    assert len(rows) == 512
    assert (down == before["blk.3.ffn_down.weight"][np.ix_(dims, rows)]).all()
    assert (after["blk.3.attn_q.weight"] == before["blk.3.attn_q.weight"][:, dims]).all()
    fields = gguf.GGUFReader(target).fields
    assert [fields[f"llama.{key}"].contents() for key in ("embedding_length", "feed_forward_length")] == [128, 512]
    assert fields["llama.attention.key_length"].contents() == 64


def test_heads_go_with_their_group(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    result = prune_model(source, target, PruneConfig("attention", target_n_kv_head=1, importance_method="l2_norm"))
    assert (result.n_heads, result.n_kv_heads) == (2, 1)
    before, after = tensors(source), tensors(target)
    for layer in range(6):
        group = int((after[f"blk.{layer}.attn_k.weight"] == before[f"blk.{layer}.attn_k.weight"][64:]).all())
        heads = slice(128 * group, 128 * group + 128)
        assert (after[f"blk.{layer}.attn_q.weight"] == before[f"blk.{layer}.attn_q.weight"][heads]).all()
        assert (after[f"blk.{layer}.attn_output.weight"] == before[f"blk.{layer}.attn_output.weight"][:, heads]).all()
        values = slice(64 * group, 64 * group + 64)
        assert (after[f"blk.{layer}.attn_v.weight"] == before[f"blk.{layer}.attn_v.weight"][values]).all()


def test_combined_leaves_out_some_of_each(source: Path, tmp_path: Path) -> None:
    result = prune_model(source, tmp_path / "out.gguf", PruneConfig("combined", target_n_kv_head=1))
    assert (result.n_layers, result.hidden_dim, result.n_kv_heads, result.dim) == (5, 672, 1, 256)
    assert result.output_parameters == sum(tensor.size for tensor in tensors(tmp_path / "out.gguf").values())


def test_what_is_refused(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")
    with pytest.raises(InvalidConfigError, match="Q8_0, whose rows cannot be cut"):
        prune_model(builtin_model_path(), target, PruneConfig("width"))
    with pytest.raises(InvalidConfigError, match="the model has 6; allowed: 1 to 6"):
        prune_model(source, target, PruneConfig(target_n_layer=7))
    with pytest.raises(InvalidConfigError, match="needs a text"):
        prune_model(source, target, PruneConfig(importance_method="activation"))
    with pytest.raises(ModelLoadError, match="cannot open"):
        prune_model(tmp_path / "none.gguf", target)
    with pytest.raises(InvalidConfigError, match="config must be a PruneConfig, not 'depth'"):
        prune_model(source, target, "depth")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="output_path must be the path of a file, not None"):
        prune_model(source, None)  # type: ignore[arg-type]
    with pytest.raises(DenseCoreError, match="cannot write"):
        prune_model(source, tmp_path / "no folder" / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    assert target.read_bytes() == b"old"


def test_full_disk(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")
    with full_disk(1 << 16), pytest.raises(DenseCoreError, match=r"out.gguf: cannot write the file: File too large"):
        prune_model(builtin_model_path(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    assert target.read_bytes() == b"old"


def test_plot_has_a_bar_a_layer(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    result = prune_model(builtin_model_path(), tmp_path / "out.gguf", PruneConfig(target_n_layer=4))
    plot_importance(tmp_path / "layers.png", result)
    blue = image.imread(tmp_path / "layers.png")[..., 2] > image.imread(tmp_path / "layers.png")[..., 0] + 0.3
    filled = blue.any(0)  # columns of the picture with something blue
    assert blue.mean() > 0.05
    assert filled.sum() > 100
    hollow = dataclasses.replace(result, layers=())
    plot_importance(tmp_path / "hollow.png", hollow)
    edges = image.imread(tmp_path / "hollow.png")
    assert (edges[..., 2] > edges[..., 0] + 0.3).mean() < 0.5 * blue.mean()


def test_layers_that_take_turns_stay(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "in.gguf")
    writer.add_metadata("general.architecture", "gemma2")
    writer.add_tensor("output_norm.weight", np.ones(8, np.float32))
    writer.write()
    with pytest.raises(InvalidConfigError, match="take turns"):
        prune_model(tmp_path / "in.gguf", tmp_path / "out.gguf")


def test_what_counts_layers_is_counted_again(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "in.gguf")
    writer.add_metadata("general.architecture", "deepseek2")
    for key, value in {"block_count": 4, "embedding_length": 8, "leading_dense_block_count": 2}.items():
        writer.add_metadata(f"deepseek2.{key}", value)
    writer.add_metadata("deepseek2.by_layer", [10, 11, 12, 13])
    for layer, size in enumerate((3, 1, 2, 4)):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.full((2, 8), size, np.float32))
    writer.write()
    result = prune_model(tmp_path / "in.gguf", tmp_path / "out.gguf")
    assert result.layers == (0, 2, 3)
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        assert file.metadata["deepseek2.leading_dense_block_count"] == 1
        assert file.metadata["deepseek2.by_layer"].tolist() == [10, 12, 13]
        assert list(file.tensors) == [f"blk.{layer}.ffn_up.weight" for layer in range(3)]


def perplexity(path: Path) -> float:
    with DenseCore(path) as model:
        ids = model.tokenizer.encode(shared_path("models", "pystd-val.txt").read_text()[:8000], add_special=True)
        return measure_perplexity(model.forward, ids, 256, bos_id=model.tokenizer.bos_id).value


# Not depth: by chance, the same one of six layers may be left out. docs/MODEL_OPTIMIZATION.md has its figures.
@pytest.mark.parametrize("strategy", ["width", "attention"])
def test_activation_beats_chance(strategy: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    prune_model(source, target, PruneConfig(strategy, importance_method="activation"), calibration_text=TEXT)
    measured = perplexity(target)
    chances = []
    for seed in range(3):
        prune_model(source, target, PruneConfig(strategy, importance_method="random", seed=seed))
        chances.append(perplexity(target))
    assert measured < statistics.median(chances)


def test_importance_of_layers_by_activation_is_their_turn(source: Path, tmp_path: Path) -> None:
    config = PruneConfig(importance_method="activation")
    result = prune_model(source, tmp_path / "out.gguf", config, calibration_text=TEXT)
    seen = {}
    with DenseCore(source) as model:
        ids = model.tokenizer.encode(TEXT, add_special=True)
        turns = []
        for start in range(0, len(ids) - 255, 256):
            chunk = [model.tokenizer.bos_id, *ids[start + 1 : start + 256]]
            model.forward(chunk, hooks={"blk.4.resid_*": lambda value, name: seen.update({name: value})})
            a, b = seen["blk.4.resid_pre"], seen["blk.4.resid_post"]
            turns.append(1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
    assert result.layer_importance[4] == pytest.approx(np.mean(turns), rel=1e-4)
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        assert file.metadata["llama.block_count"] == 5
