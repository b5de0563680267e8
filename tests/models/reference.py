"""The forward pass of the llama family, Gemma 2 and Phi-3 in float64 numpy, written from the papers.

An oracle that shares no code. Weights are dequantized by the ``gguf`` package; nothing of ``densecore`` is imported.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


class Reference:
    """A model file, dequantized; `forward` gives logits (num_tokens, n_vocab)."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.metadata = {name: field.contents() for name, field in reader.fields.items() if "tokenizer" not in name}
        self.arch = self.metadata["general.architecture"]
        self.weights = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            .reshape(tuple(int(n) for n in reversed(tensor.shape)))
            .astype(np.float64)
            for tensor in reader.tensors
        }
        self.split("attn_qkv", "attn_q", "attn_k", "attn_v")
        if self.arch == "phi3":
            self.split("ffn_up", "ffn_gate", "ffn_up")

    def split(self, fused: str, *names: str) -> None:
        """Give matrices that lie one below the other their names."""
        kv_dim = int(self.get("attention.head_count_kv") * self.get("attention.key_length"))
        for name in [name for name in self.weights if name.endswith(f"{fused}.weight")]:
            whole, prefix = self.weights.pop(name), name.removesuffix(f"{fused}.weight")
            ends = [len(whole) - 2 * kv_dim, len(whole) - kv_dim] if len(names) == 3 else [len(whole) // 2]
            parts = np.split(whole, ends)
            self.weights |= {f"{prefix}{part}.weight": rows for part, rows in zip(names, parts, strict=True)}

    def get(self, key: str, default: float | None = None) -> float:
        value = self.metadata.get(f"{self.arch}.{key}", default)
        assert value is not None, key
        return value

    def rms_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        epsilon = self.get("attention.layer_norm_rms_epsilon")
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * self.weights[f"{name}.weight"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        bias = self.weights.get(f"{name}.bias")
        y = x @ self.weights[f"{name}.weight"].T
        return y if bias is None else y + bias

    def rope(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """x (num_tokens, heads, head_dim)"""
        n = int(self.get("rope.dimension_count", x.shape[-1]))
        frequencies = self.get("rope.freq_base", 10000.0) ** (-np.arange(0, n, 2) / n)
        if "rope_freqs.weight" in self.weights:
            frequencies = frequencies / self.weights["rope_freqs.weight"]
        if self.metadata.get(f"{self.arch}.rope.scaling.type") == "linear":
            frequencies = frequencies / self.get("rope.scaling.factor")
        turn = np.exp(1j * positions[:, None] * frequencies)[:, None]  # (num_tokens, 1, n / 2)
        first, second = (slice(0, n, 2), slice(1, n, 2)) if self.arch == "llama" else (slice(n // 2), slice(n // 2, n))
        rotated = (x[..., first] + 1j * x[..., second]) * turn
        out = x.copy()
        out[..., first], out[..., second] = rotated.real, rotated.imag
        return out

    def attention(self, x: np.ndarray, prefix: str) -> np.ndarray:
        num_tokens, n_heads = len(x), int(self.get("attention.head_count"))
        n_kv_heads = int(self.get("attention.head_count_kv", n_heads))
        q = self.linear(x, f"{prefix}.attn_q").reshape(num_tokens, n_heads, -1)
        k = self.linear(x, f"{prefix}.attn_k").reshape(num_tokens, n_kv_heads, -1)
        v = self.linear(x, f"{prefix}.attn_v").reshape(num_tokens, n_kv_heads, -1)
        if f"{prefix}.attn_q_norm.weight" in self.weights:
            q, k = self.rms_norm(q, f"{prefix}.attn_q_norm"), self.rms_norm(k, f"{prefix}.attn_k_norm")
        positions = np.arange(num_tokens)
        q, k = self.rope(q, positions), self.rope(k, positions)
        out = np.empty_like(q)
        for head in range(n_heads):
            group = head // (n_heads // n_kv_heads)
            scores = q[:, head] @ k[:, group].T / np.sqrt(q.shape[-1])
            if self.arch == "gemma2":
                cap = self.get("attn_logit_softcapping")
                scores = np.tanh(scores / cap) * cap
            scores[np.triu_indices(num_tokens, 1)] = -np.inf
            if self.arch == "phi3" or (self.arch == "gemma2" and int(prefix.removeprefix("blk.")) % 2 == 0):
                scores[np.tril_indices(num_tokens, -int(self.get("attention.sliding_window")))] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            out[:, head] = weights / weights.sum(1, keepdims=True) @ v[:, group]
        return self.after(self.linear(out.reshape(num_tokens, -1), f"{prefix}.attn_output"), f"{prefix}.post_attention")

    def after(self, x: np.ndarray, name: str) -> np.ndarray:
        """The norm behind a block, where the file has one."""
        return self.rms_norm(x, f"{name}_norm") if f"{name}_norm.weight" in self.weights else x

    def feed_forward(self, x: np.ndarray, prefix: str) -> np.ndarray:
        gate, up = self.linear(x, f"{prefix}.ffn_gate"), self.linear(x, f"{prefix}.ffn_up")
        active = gate / (1 + np.exp(-gate))
        if self.arch == "gemma2":
            active = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        return self.after(self.linear(active * up, f"{prefix}.ffn_down"), f"{prefix}.post_ffw")

    def forward(self, token_ids: np.ndarray) -> np.ndarray:
        x = self.weights["token_embd.weight"][token_ids]
        if self.arch == "gemma2":
            x = x * np.sqrt(x.shape[1])
        for layer in range(int(self.get("block_count"))):
            prefix = f"blk.{layer}"
            x = x + self.attention(self.rms_norm(x, f"{prefix}.attn_norm"), prefix)
            x = x + self.feed_forward(self.rms_norm(x, f"{prefix}.ffn_norm"), prefix)
        output = "output" if "output.weight" in self.weights else "token_embd"
        logits = self.linear(self.rms_norm(x, "output_norm"), output)
        if self.arch == "gemma2":
            cap = self.get("final_logit_softcapping")
            return np.tanh(logits / cap) * cap
        return logits
