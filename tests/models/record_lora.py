"""Records what llama.cpp computes with an adapter, for `test_lora_recorded`:

python -m tests.models.record_lora [PYTHON]

PYTHON is an interpreter that has llama-cpp-python; by default the one that runs this.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.gguf_factory import make_model
from tests.lora_factory import make_adapter

__all__ = ["ARCHITECTURES", "NUM_TOKENS", "PROMPT", "RECORDED", "SCALE", "make_files"]

RECORDED = Path(__file__).with_name("lora_llama_cpp.json")
ARCHITECTURES = ("llama", "qwen2", "qwen3")
PROMPT = [5, 6, 7, 60, 61, 100, 30]
SCALE = 0.5
NUM_TOKENS = 24

PEER = """
import json, sys
import llama_cpp
base, adapter, scale, prompt, num_tokens = *sys.argv[1:3], *map(json.loads, sys.argv[3:])
llm = llama_cpp.Llama(base, lora_path=adapter, lora_scale=scale, logits_all=True, n_ctx=128, verbose=False)
llm.eval(prompt)
logits = llm.scores[len(prompt) - 1].tolist()
greedy = []
while len(greedy) < num_tokens:
    greedy.append(int(llm.scores[llm.n_tokens - 1].argmax()))
    llm.eval(greedy[-1:])
print(json.dumps({"greedy": greedy, "logits": [round(value, 5) for value in logits]}))
"""


def make_files(folder: Path, arch: str) -> tuple[Path, Path]:
    """A model, and an adapter of all its matrices."""
    base = make_model(folder / f"{arch}.gguf", arch)
    return base, make_adapter(folder / f"{arch}-adapter.gguf", base, rank=4, alpha=6)


def main() -> None:
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    recorded = {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in ARCHITECTURES:
            arguments = [*map(str, make_files(Path(folder), arch)), *map(json.dumps, (SCALE, PROMPT, NUM_TOKENS))]
            result = subprocess.run([python, "-c", PEER, *arguments], check=True, capture_output=True, text=True)
            recorded[arch] = json.loads(result.stdout.splitlines()[-1])
    lines = ",\n".join(f'  "{arch}": {json.dumps(values)}' for arch, values in recorded.items())
    RECORDED.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
