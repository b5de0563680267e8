"""Records two small models of the SentencePiece library and the ids that it gives: ``python record_sentencepiece.py``.

One is Unigram, with a table for normalization and without room for extra spaces, as T5's; the other BPE with bytes for
what is missing, as Llama 2's. Needs the package sentencepiece.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

import sentencepiece

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = [
    "Hello world", "  two   spaces  ", "", "   ", "Text\twith\nbreaks\r\n and\u00a0no-break", "ﬁne ①② Ａ　Ｂ",
    "e\u0301a\u0300 naïve", "你好，世界", "🚀 😶\u200d🌫️ x", "</s> <unk> <s>", "def f(x):\n    return x",
    "1234567 3.14 ½", "un-be-liev-able!!!", "ΑΒΓ наука", "ab" * 40,
]  # fmt: skip
# Code points that are replaced: ligatures, circled digits, wide letters, kinds of spaces, a letter and its accent.
RULES = {
    "FB01": "66 69", "2460": "31", "2461": "32", "FF21": "41", "FF22": "42", "3000": "20", "A0": "20", "9": "20",
    "A": "20", "D": "20", "65 301": "E9",
}  # fmt: skip
COMMON = {"character_coverage": 0.999, "minloglevel": 2, "num_threads": 1}
KINDS = {
    "unigram": {"model_type": "unigram", "vocab_size": 300, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "bpe": {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
}


def main() -> None:
    """Write sentencepiece-KIND.model and sentencepiece.json."""
    recorded: dict[str, object] = {"cases": CASES}
    for kind, settings in KINDS.items():
        model = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the model keeps the name of the rules
            Path("rules.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in RULES.items()))
            if kind == "unigram":
                settings = settings | {"normalization_rule_tsv": "rules.tsv"}
            lines = iter((ROOT / "README.md").read_text().splitlines())
            sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **COMMON, **settings)
        data = model.getvalue()
        (HERE / f"sentencepiece-{kind}.model").write_bytes(data)
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        recorded[kind] = [processor.encode(case) for case in CASES]
        print(kind, len(data), processor.vocab_size())
    (HERE / "sentencepiece.json").write_text(json.dumps(recorded, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
