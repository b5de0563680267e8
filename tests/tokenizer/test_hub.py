"""Tokenizers from the Hub, against a stand-in of it on this machine.

Each case runs in a process of its own: huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Pipeline

from tests.gguf_factory import byte_alphabet, make_model
from tests.hub_server import COMMIT, hub_server
from tests.tokenizer.vocabs import SPACE

LOAD = """
import json, sys
from densecore.exceptions import ModelLoadError
from densecore.tokenizer import ChatTemplate, Tokenizer
try:
    tokenizer = Tokenizer.from_hub(sys.argv[1], revision=sys.argv[2] or None)
except ModelLoadError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
texts = json.loads(sys.argv[3])
print(json.dumps({
    "kind": tokenizer.kind, "n_vocab": tokenizer.n_vocab, "bos": tokenizer.bos_id, "eos": tokenizer.eos_id,
    "eog": sorted(tokenizer.eog_ids), "template": tokenizer.chat_template,
    "plain": [tokenizer.encode(text) for text in texts],
    "special": [tokenizer.encode(text, add_special=True, parse_special=True) for text in texts],
    "decoded": [tokenizer.decode(tokenizer.encode(text)) for text in texts],
    "parsed": [tokenizer.decode(tokenizer.encode(text, parse_special=True)) for text in texts],
    "stripped": [tokenizer.decode(tokenizer.encode(text, True, True), skip_special=True) for text in texts],
    "streamed": [
        "".join([*map((stream := tokenizer.detokenizer()).push, tokenizer.encode(text)), stream.flush()])
        for text in texts
    ],
}))
"""


def byte_level() -> Pipeline:
    tokens = {text: token_id for token_id, text in enumerate([*byte_alphabet(), "th", "the", "\u0120t", "\u0120the"])}
    merges = [("t", "h"), ("th", "e"), ("\u0120", "t"), ("\u0120", "the")]
    pipeline = Pipeline(models.BPE(tokens, merges))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens(["<s>", "</s>", "<|im_end|>"])
    pipeline.add_tokens(["<think>"])
    pipeline.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 260)])
    return pipeline


def sentence_piece() -> Pipeline:
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        SPACE,
        "t",
        "h",
        "e",
        "th",
        SPACE + "th",
    ]
    merges = [("t", "h"), (SPACE, "th")]
    vocabulary = {text: token_id for token_id, text in enumerate(tokens)}
    pipeline = Pipeline(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    pipeline.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    pipeline.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pipeline.add_special_tokens(["<unk>", "<s>", "</s>"])
    pipeline.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return pipeline


def word_piece() -> Pipeline:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "un", "##able", "!"]
    pipeline = Pipeline(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    pipeline.normalizer = normalizers.BertNormalizer(lowercase=True)
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pipeline.decoder = decoders.WordPiece()
    pipeline.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    pipeline.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return pipeline


def metaspace() -> Pipeline:
    pipeline = Pipeline(models.Unigram([("<unk>", 0.0), (SPACE, -1.0), (SPACE + "th", -2.0), ("e", -3.0)], 0))
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    pipeline.decoder = decoders.Metaspace(prepend_scheme="first")
    pipeline.add_special_tokens([AddedToken("<unk>", normalized=False)])
    return pipeline


def files() -> dict[str, bytes]:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "from the configuration"}
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "by name"}]
    content = {
        "o/bytes/tokenizer.json": byte_level().to_str(),
        "o/bytes/tokenizer_config.json": json.dumps(config),
        "o/bytes/chat_template.jinja": "{{ bos_token }}{{ messages[0].content }}",
        "o/bytes/generation_config.json": json.dumps({"eos_token_id": [261, 5, 9999, "x"]}),
        "o/pieces/tokenizer.json": sentence_piece().to_str(),
        "o/pieces/tokenizer_config.json": json.dumps(config),
        "o/words/tokenizer.json": word_piece().to_str(),
        "o/words/tokenizer_config.json": json.dumps({"chat_template": named}),
        "o/metaspace/tokenizer.json": metaspace().to_str(),
        "o/empty/config.json": "{}",
        "o/corrupt/tokenizer.json": '{"model": ',
        "o/list/tokenizer.json": "[1, 2]",
        "o/nonsense/tokenizer.json": '{"model": {"type": "Nonsense"}}',
        "o/decoder/tokenizer.json": Pipeline(models.WordLevel({"a": 0}, "a")).to_str(),
        "o/config/tokenizer.json": byte_level().to_str(),
        "o/config/tokenizer_config.json": "{",
        "secret/private/tokenizer.json": byte_level().to_str(),
        "secret/gated/tokenizer.json": byte_level().to_str(),
    }
    return {path: text.encode() for path, text in content.items()}


@pytest.fixture(scope="module")
def hub():
    with hub_server(files(), private="secret") as address:
        yield address


@pytest.fixture
def load(hub, tmp_path):
    """Load a tokenizer in another process, with a cache of its own."""

    def run(repo_id, texts=("x",), revision="", **environment):
        variables = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))},
            "HF_ENDPOINT": hub,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        }
        command = [sys.executable, "-c", LOAD, repo_id, revision, json.dumps(texts)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_byte_level(load):
    text = "<s>the the</s> é <think>\U0001f999<|im_end|>"
    found = load("o/bytes", ["the the", text])
    assert (found["kind"], found["n_vocab"], found["bos"], found["eos"]) == ("gpt2", 264, 260, 261)
    assert found["plain"][0] == [257, 259]
    assert found["special"][0] == [260, 257, 259]
    assert found["special"][1].count(260) == 1
    assert not {260, 261, 262} & set(found["plain"][1])
    assert 263 in found["plain"][1]
    assert found["decoded"] == found["parsed"] == found["streamed"] == ["the the", text]
    assert found["stripped"][1] == "the the é <think>\U0001f999"
    assert found["eog"] == [5, 261, 262]
    assert found["template"].startswith("{{ bos_token }}")


def test_sentence_piece(load):
    texts = ["the", " the  é", "<s>the</s>", "the</s> the"]
    found = load("o/pieces", texts)
    assert (found["kind"], found["bos"], found["eos"], found["eog"]) == ("llama", 1, 2, [2])
    assert found["plain"][0] == [264, 262]
    assert found["special"][0] == [1, 264, 262, 2]
    assert found["special"][2] == [1, 264, 262, 2, 2]
    assert found["decoded"] == found["parsed"] == found["streamed"] == texts
    assert found["template"] == "from the configuration"


def test_word_piece(load):
    found = load("o/words", ["The UNABLE!", "the zzz"])
    assert found["kind"] == "bert"
    assert found["special"][0] == [2, 4, 5, 6, 7, 3]
    assert found["decoded"] == ["the unable !", "the"]
    assert found["template"] == "by name"


def test_metaspace(load):
    found = load("o/metaspace", ["the", "the the"])
    assert found["kind"] == "llama"
    assert found["decoded"] == ["the", "the the"]
    assert found["template"] is None


@pytest.mark.parametrize(
    ("repo_id", "words"),
    [
        ("o/missing", ["o/missing", "tokenizer.json", "no such repository"]),
        ("o/empty", ["o/empty", "tokenizer.json", "no such file"]),
        ("o/corrupt", ["tokenizer.json", "not readable as JSON"]),
        ("o/list", ["tokenizer.json", "an object is needed"]),
        ("o/nonsense", ["tokenizer.json", "not a tokenizer"]),
        ("o/decoder", ["tokenizer.json", "not supported", "ByteLevel"]),
        ("o/config", ["tokenizer_config.json", "not readable as JSON"]),
        ("secret/private", ["secret/private", "HF_TOKEN"]),
        ("secret/gated", ["secret/gated", "access must be granted"]),
        ("not a repo id", ["not a repository id"]),
        ("", ["not a repository id"]),
    ],
)
def test_errors(load, repo_id, words):
    message = load(repo_id)["error"]
    assert not [word for word in words if word not in message], message
    assert message.isprintable()


def test_a_token_opens_private_repositories(load):
    assert load("secret/private", HF_TOKEN="hf_secret")["kind"] == "gpt2"


def test_revisions(load):
    assert load("o/bytes", revision=COMMIT)["kind"] == "gpt2"
    assert "no such revision" in load("o/bytes", revision="nowhere")["error"]


def test_offline(load):
    assert "not in the cache" in load("o/words", HF_HUB_OFFLINE="1")["error"]
    online = load("o/words")
    assert load("o/words", HF_HUB_OFFLINE="1") == online


def test_an_unreachable_hub(load):
    """huggingface_hub tries for some seconds before it gives up; then the cache has to do."""
    online = load("o/words")
    assert load("o/words", HF_ENDPOINT="http://127.0.0.1:9") == online


CONSTRUCT = """
import sys
from densecore import DenseCore
with DenseCore(sys.argv[1], hf_repo_id=sys.argv[2]) as model:
    assert model.tokenizer.kind == "gpt2", model.tokenizer.kind
    assert model.detokenize(model.tokenize("the thing")) == "the thing"
"""


def test_a_model_with_the_tokenizer_of_a_repository(hub, tmp_path):
    path = make_model(tmp_path / "model.gguf", n_layers=1)
    variables = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", CONSTRUCT, str(path), "o/bytes"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
