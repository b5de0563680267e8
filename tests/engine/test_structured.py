"""Structured output through the engine: what ends is valid, and what is cut is the beginning of something valid."""

from __future__ import annotations

import asyncio
import json
import re
import threading

import jsonschema
import pytest

from densecore import DenseCore, GenerationConfig
from densecore.data import builtin_model_path
from densecore.exceptions import InvalidConfigError
from tests.engine.schemas import BOUNDED, UNBOUNDED
from tests.gguf_factory import gpt2_vocabulary, make_model

SCHEMAS = BOUNDED | UNBOUNDED
SEEDS = range(2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random models with each kind of vocabulary that generates, and the built-in one."""
    folder = tmp_path_factory.mktemp("structured")
    paths = {
        "random-llama": make_model(folder / "llama.gguf", n_layers=1, max_len=1024),
        "random-gpt2": make_model(folder / "gpt2.gguf", n_layers=1, max_len=1024, vocab=gpt2_vocabulary()),
        "pystd-6m": builtin_model_path(),
    }
    opened = {name: DenseCore(path) for name, path in paths.items()}
    yield opened
    for model in opened.values():
        model.close()


@pytest.fixture(params=["random-llama", "random-gpt2", "pystd-6m"])
def model(models, request):
    return models[request.param]


def assert_prefix(model, result, config):
    """What was cut could go on: a grammar takes it, token by token, and allows something after it."""
    constraint = model._engine.samplers.constraint(config)
    for token_id in result.token_ids:
        assert not constraint.forbidden(model.tokenizer.n_vocab)[token_id]
        constraint.accept(token_id)
    assert not constraint.forbidden(model.tokenizer.n_vocab).all()


def run(model, schema, seed):
    """Generate and check; the finish reason."""
    config = GenerationConfig(json_schema=schema, seed=seed, max_tokens=800, temperature=1.0, repetition_penalty=1.0)
    result = model.complete("x = ", config)
    if result.finish_reason == "stop":
        value = json.loads(result.text)
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)
    else:
        assert result.finish_reason == "length"
        assert_prefix(model, result, config)
    return result.finish_reason


def test_there_are_fifty():
    assert len(SCHEMAS) >= 50


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(model, name):
    for seed in SEEDS:
        run(model, SCHEMAS[name], seed)


def test_bounded_schemas_end(model):
    reasons = [run(model, schema, 7) for schema in BOUNDED.values()]
    assert reasons.count("stop") >= 0.9 * len(reasons)


def test_json_mode_is_an_object(model):
    ended = 0
    for seed in range(20):
        config = GenerationConfig(json_mode=True, seed=seed, max_tokens=240, temperature=1.0)
        result = model.complete("x = ", config)
        if result.finish_reason == "stop":
            assert isinstance(json.loads(result.text), dict)
            ended += 1
        else:
            assert_prefix(model, result, config)
    assert ended


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_regex_choice_and_grammars(model, temperature):
    options = {"temperature": temperature, "seed": 1}
    assert re.fullmatch("[a-f]{2,9}-[0-9]+x", model.generate("x", regex="[a-f]{2,9}-[0-9]{1,9}x", **options))
    choices = [" yes", "no", 'a "quoted"\tlama 🦙']
    assert model.generate("x", choice=choices, **options) in choices
    gbnf = 'root ::= "<" item ("," item)? ">"\nitem ::= [a-z] [0-9]'
    assert re.fullmatch("<[a-z][0-9](,[a-z][0-9])?>", model.generate("x", grammar=gbnf, **options))
    lark = 'start: "<" ITEM ("," ITEM)? ">"\nITEM: /[a-z][0-9]/'
    assert re.fullmatch("<[a-z][0-9](,[a-z][0-9])?>", model.generate("x", grammar=lark, **options))


def test_the_first_space_is_text(model):
    """A grammar sees it, so it shows, even where encoding would have added it."""
    bos = model.tokenizer.bos_id or 0
    assert model.generate([bos], regex=" the") == " the"


def test_a_complete_output_ends_by_itself(model):
    result = model.complete("x", regex="abc", ignore_eos=False, min_tokens=0)
    assert (result.text, result.finish_reason) == ("abc", "stop")


def test_min_tokens_gives_way_to_the_end_of_the_grammar(model):
    assert model.complete("x", regex="ab?", min_tokens=50).text in ("a", "ab")


def test_a_model_without_an_end_of_generation(tmp_path):
    path = make_model(
        tmp_path / "m.gguf",
        n_layers=1,
        drop=("tokenizer.ggml.eos_token_id",),
        vocab=gpt2_vocabulary(specials=()) | {"tokenizer.ggml.bos_token_id": 0},
    )
    with DenseCore(path) as model:
        assert not model.tokenizer.eog_ids
        assert re.fullmatch("a?b{1,3}", model.generate("x", regex="a?b{1,3}", seed=3))
        assert json.loads(model.generate("x", json_schema=BOUNDED["one property"]))["a"] in range(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json_schema": {"type": "objekt"}}, "json_schema cannot be used: .*Invalid type: objekt"),
        ({"json_schema": {"not": {}}}, 'Unimplemented keys: \\["not"\\]'),
        ({"json_schema": {"$ref": "#/nowhere"}}, "does not exist"),
        ({"json_schema": {"$ref": "#"}}, "no text matches it"),
        ({"json_schema": False}, "must be a JSON object"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": {"maximum": float("nan")}}, "json_schema is not JSON"),
        ({"json_schema": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, "use anyOf instead"),
        ({"regex": "("}, "regex cannot be used: .*unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": ""}, "regex must be a string of 1 to"),
        ({"grammar": "start: nothing"}, 'grammar cannot be used: at 1\\(8\\): unknown name: "nothing"'),
        ({"grammar": "root ::= nothing"}, "Rule 'nothing' not found"),
        ({"grammar": "what is this"}, "grammar cannot be used"),
        ({"choice": []}, "choice must hold at least one"),
        ({"regex": "a", "json_mode": True}, "json_mode and regex exclude each other"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos cannot be had with regex"),
    ],
    ids=str,
)
def test_mistakes_are_raised_where_the_request_is_made(tiny, options, message):
    with pytest.raises(InvalidConfigError, match=message):
        tiny.stream("ab", **options)

    async def ask():
        async for _ in tiny.stream_async("ab", **options):
            pass

    with pytest.raises(InvalidConfigError, match=message):
        asyncio.run(ask())


def test_the_kernel_thread_compiles_nothing(tiny, monkeypatch):
    """Neither does asyncio's thread wait: a grammar is compiled in a thread of its own, a mask in another."""
    from densecore.sampling.grammar import GrammarCompiler

    compile_it, threads = GrammarCompiler._compile, []

    def spy(self, kind, source):
        threads.append(threading.current_thread().name)
        return compile_it(self, kind, source)

    monkeypatch.setattr(GrammarCompiler, "_compile", spy)
    for _ in range(2):  # the second time it is there already
        assert tiny.generate("ab", regex="[xyz]{3}", max_tokens=9)
    assert threads == ["densecore-compile-grammar"]


def test_asyncio(tiny):
    async def ask():
        return "".join([text async for text in tiny.stream_async("ab", json_schema=BOUNDED["tuple"], max_tokens=200)])

    assert len(json.loads(asyncio.run(ask()))) == 3
