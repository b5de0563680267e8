"""A checkpoint in Hugging Face's layout: a folder with ``config.json`` and weights in one or more safetensors files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from densecore.convert.config import CheckpointConfig
from densecore.convert.json_files import read_json
from densecore.convert.lazy import LazyTensor
from densecore.convert.shard import read_shard
from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import describe, load_error, printable

__all__ = ["Checkpoint"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SNAPSHOT = re.compile("models--.*?--(.*)/snapshots/[0-9a-f]{40}")
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")


@dataclass(frozen=True)
class Checkpoint:
    """Settings and tensors of a checkpoint; the numbers stay in the files."""

    folder: Path
    config: CheckpointConfig
    tensors: dict[str, LazyTensor]  # by their names in the files

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open the checkpoint in `folder`.

        Raises ModelLoadError for a folder without one, for shards that are missing, truncated, or outside of the
        folder by the index, and for tensors that the index promises and no shard holds.
        """
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise load_error(folder, "checkpoint", problem, "a folder with config.json and safetensors files")
        config = CheckpointConfig.read(folder / "config.json")
        if (folder / SINGLE).exists():  # as transformers has it, this comes first
            return cls(folder, config, read_shard(folder / SINGLE))
        if (folder / INDEX).exists():
            return cls(folder, config, _read_shards(folder / INDEX))
        raise _no_weights(folder)

    @property
    def name(self) -> str:
        """What the model is called: the folder's name, or the repository's in the Hub's cache."""
        path = self.folder.resolve()
        snapshot = _SNAPSHOT.search(path.as_posix())
        return snapshot[1] if snapshot else path.name


def _read_shards(index: Path) -> dict[str, LazyTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise load_error(index, "weight_map", f"is {describe(weight_map)}", "an object from tensor to file name")
    tensors: dict[str, LazyTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if shard in ("", ".", "..") or set(shard) & set("/\\\0:"):
            raise load_error(index, "weight_map", f"names the file {describe(shard)}", "files in the same folder")
        path = index.parent / shard
        if not path.exists():
            raise load_error(path, "shard", "is missing", f"all files that {index.name} names")
        tensors |= read_shard(path)
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        problem = f"promises {len(missing)} tensors that no file holds, such as {describe(missing[0])}"
        raise load_error(index, "weight_map", problem, "an index that fits the files")
    return tensors


def _no_weights(folder: Path) -> ModelLoadError:
    others = sorted(path.name for pattern in _OTHER_FORMATS for path in folder.glob(pattern))
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    found = ""
    if shards:
        found = f"; there is {describe(shards[0])}, but neither {SINGLE} nor {INDEX}"
    elif others:
        found = f"; there is {describe(others[0])}, a format that is not read"
    return ModelLoadError(f"{printable(folder)}: no weights{found}; allowed: {SINGLE}, or shards with {INDEX}")
