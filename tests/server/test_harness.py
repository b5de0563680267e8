"""lm-evaluation-harness, where it is installed (the extra ``evaluation``): its log-likelihoods are those of the SDK."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from densecore import DenseCore

from .conftest import Running

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")

MODEL = "pystd-6m"
DOCUMENTS = [
    {"context": "import", "choices": [" os", " sys", " banana"]},
    {"context": "def __init__(self", "choices": ["):\n", ", name):\n", "]"]},
    {"context": "for i in range(10):\n    print", "choices": ["(i)", "(x, y)", " i"]},
    {"context": 'with open(path) as f:\n    """é🦙', "choices": ['"""', "\n\n"]},
    {"context": "return ", "choices": ["None", "self._value"]},
    {"context": "if x is", "choices": [" None", " not"]},
    {"context": "except ValueError", "choices": [":", ":\n", " as"]},
]
CHOICES = """\
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
"""
WHOLE = """\
task: whole
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{context}}"
metric_list: [{metric: byte_perplexity}]
"""


@pytest.fixture(scope="module")
def samples(builtin: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """What the command logs for each document of each task. It asks the server for tokens, too."""
    folder = tmp_path_factory.mktemp("harness")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    for name, text in {"choices": CHOICES, "whole": WHOLE}.items():
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    arguments = f"model={MODEL},base_url={builtin.url}/v1/completions,num_concurrent=4,max_length=256"
    command = [sys.executable, "-W", "ignore", "-m", "lm_eval", "--model", "local-completions"]
    command += ["--model_args", arguments, "--tasks", "choices,whole", "--include_path", str(folder)]
    command += ["--log_samples", "--output_path", str(folder / "out")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: _logged(folder / "out", name) for name in ("choices", "whole")}


def _logged(folder: Path, task: str) -> list[dict]:
    (path,) = folder.glob(f"**/samples_{task}_*.jsonl")
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda sample: sample["doc_id"])


def log_likelihood(model: DenseCore, ids: list[int], start: int) -> tuple[float, bool]:
    """Of the tokens from `start` on, and whether each is the likeliest."""
    scores = [score for score in model.score(ids, 1)[start:] if score is not None]
    assert len(scores) == len(ids) - start
    greedy = all(score.token_id == score.top_logprobs[0].token_id for score in scores)
    return sum(score.logprob for score in scores), greedy


def test_choices(builtin: Running, samples: dict[str, list[dict]]) -> None:
    encode = builtin.model.tokenizer.encode
    seen_greedy = set()
    for document, sample in zip(DOCUMENTS, samples["choices"], strict=True):
        for choice, (found,) in zip(document["choices"], sample["resps"], strict=True):
            # The harness counts a context's last spaces as the continuation's.
            context = document["context"].rstrip()
            ids = encode(document["context"] + choice, add_special=False)
            start = len(encode(context, add_special=False))
            value, greedy = log_likelihood(builtin.model, ids, start)
            assert float(found[0]) == pytest.approx(value, abs=1e-6)
            assert (str(found[1]) == "True") == greedy
            seen_greedy.add(greedy)
    assert seen_greedy == {True, False}


def test_whole_texts(builtin: Running, samples: dict[str, list[dict]]) -> None:
    """The first token is scored as well, behind the token that begins a text."""
    tokenizer = builtin.model.tokenizer
    first = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    for document, sample in zip(DOCUMENTS, samples["whole"], strict=True):
        value, _ = log_likelihood(builtin.model, [first, *tokenizer.encode(document["context"], add_special=False)], 1)
        assert float(sample["resps"][0][0]) == pytest.approx(value, abs=1e-6)
