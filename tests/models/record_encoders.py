"""Records what llama.cpp computes for the tiny encoders of `encoder_factory`, and for a decoder that embeds.

Run as ``python -m tests.models.record_encoders`` where llama_cpp is installed. Its GELU is a table of float16, so that
hidden states of models with GELU agree within 5e-3 only.
"""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

from tests.encoder_factory import make_encoder
from tests.gguf_factory import make_model

RECORDED = Path(__file__).with_name("encoders.npz")
IDS = np.random.default_rng(4).integers(5, 60, 29).astype(np.int32)


class Reference:
    """A model in llama.cpp, in float32."""

    def __init__(self, path: Path, pooling: int) -> None:
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self.model
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 128
        params.embeddings, params.pooling_type, params.n_threads = True, pooling, 1
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        assert self.context
        self.dim = llama_cpp.llama_model_n_embd(self.model)

    def run(self, ids: np.ndarray) -> None:
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token_id in enumerate(ids.tolist()):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token_id, i, 1, 1
            batch.seq_id[i][0] = 0
        assert llama_cpp.llama_decode(self.context, batch) == 0
        llama_cpp.llama_batch_free(batch)

    def hidden(self, ids: np.ndarray) -> np.ndarray:
        self.run(ids)
        rows = [llama_cpp.llama_get_embeddings_ith(self.context, i) for i in range(len(ids))]
        return np.array([_floats(row, self.dim) for row in rows])

    def pooled(self, ids: np.ndarray, size: int = 0) -> np.ndarray:
        self.run(ids)
        return _floats(llama_cpp.llama_get_embeddings_seq(self.context, 0), size or self.dim)


def _floats(pointer: object, size: int) -> np.ndarray:
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (size,)).copy()


def main() -> None:
    recorded = {"ids": IDS}
    with tempfile.TemporaryDirectory() as folder:
        for arch in ("bert", "nomic-bert", "jina-bert-v2"):
            path = make_encoder(Path(folder, f"{arch}.gguf"), arch)
            recorded[arch] = Reference(path, llama_cpp.LLAMA_POOLING_TYPE_NONE).hidden(IDS)
        path = make_encoder(Path(folder, "rank.gguf"), "bert", n_labels=1, pooling=4)
        recorded["rank"] = Reference(path, llama_cpp.LLAMA_POOLING_TYPE_RANK).pooled(IDS, 1)
        path = make_model(Path(folder, "qwen3.gguf"), "qwen3", metadata_overrides={"qwen3.pooling_type": 3})
        recorded["qwen3"] = Reference(path, llama_cpp.LLAMA_POOLING_TYPE_LAST).pooled(IDS)
    np.savez_compressed(RECORDED, **recorded)
    print({name: values.shape for name, values in recorded.items()})


if __name__ == "__main__":
    main()
