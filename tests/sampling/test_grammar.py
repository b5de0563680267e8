"""Grammars over vocabularies of each kind: what is allowed next, limits, errors."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import numpy as np
import pytest

from densecore.config import GenerationConfig
from densecore.engine.samplers import SamplerFactory, spell, token_table
from densecore.exceptions import InferenceError, InvalidConfigError
from densecore.sampling import Constraint, GrammarCompiler, Sampler, Vocabulary, grammar
from densecore.tokenizer import Tokenizer
from tests.conftest import shared_path
from tests.gguf_factory import gpt2_vocabulary, make_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = make_model(tmp_path_factory.mktemp("grammar") / "m.gguf", n_layers=1, vocab=gpt2_vocabulary())
    return Tokenizer.from_gguf(path)


@pytest.fixture
def factory(tokenizer):
    return SamplerFactory(tokenizer, tokenizer.n_vocab)


def allowed(constraint, tokenizer):
    """Texts of the tokens that may come next; of those that end, their names."""
    return {tokenizer.token_text(int(i)) for i in np.flatnonzero(~constraint.forbidden(tokenizer.n_vocab))}


def texts_at_random(constraint, tokenizer, seed, limit=200):
    """What a model writes that finds all allowed tokens equally probable."""
    rng, written = np.random.default_rng(seed), b""
    for _ in range(limit):
        token_id = int(rng.choice(np.flatnonzero(~constraint.forbidden(tokenizer.n_vocab))))
        constraint.accept(token_id)
        written += tokenizer.token_bytes(token_id)
        if constraint.is_complete:
            return written.decode()
    raise AssertionError(f"no end: {written!r}")


def test_the_end_is_allowed_exactly_where_the_grammar_may_end(factory, tokenizer):
    ends = {tokenizer.token_text(i) for i in tokenizer.eog_ids}
    constraint = factory.constraint(GenerationConfig(regex="ab?c*"))
    assert allowed(constraint, tokenizer) == {"a"}
    constraint.accept(tokenizer.encode("a")[0])
    assert allowed(constraint, tokenizer) == {"b", "c"} | ends
    constraint.accept(tokenizer.encode("c")[0])
    assert allowed(constraint, tokenizer) == {"c"} | ends
    assert not constraint.is_complete
    constraint.accept(min(tokenizer.eog_ids))
    assert constraint.is_complete


def test_a_token_that_is_not_allowed_is_an_error(factory, tokenizer):
    constraint = factory.constraint(GenerationConfig(regex="ab"))
    with pytest.raises(InferenceError, match="the grammar cannot go on"):
        constraint.accept(tokenizer.encode("z")[0])
    with pytest.raises(InferenceError, match="the grammar cannot go on"):
        constraint.forbidden(tokenizer.n_vocab)


def test_constraints_of_one_grammar_are_independent(factory, tokenizer):
    config = GenerationConfig(regex="[ab]c")
    first, second = factory.constraint(config), factory.constraint(config)
    first.accept(tokenizer.encode("a")[0])
    assert allowed(first, tokenizer) == {"c"}
    assert allowed(second, tokenizer) == {"a", "b"}


@pytest.mark.parametrize("name", ["bert-bge", "llama-spm", "llama-bpe", "gpt-2", "qwen2"])
def test_published_vocabularies(name):
    """Every kind of tokenizer: WordPiece, SentencePiece with byte tokens, byte-level BPE."""
    tokenizer = Tokenizer.from_gguf(shared_path("vocabs", f"ggml-vocab-{name}.gguf"))
    factory = SamplerFactory(tokenizer, tokenizer.n_vocab)
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    schema = {"type": "array", "items": digit, "minItems": 2, "maxItems": 2}
    for seed in range(5):
        value = json.loads(texts_at_random(factory.constraint(GenerationConfig(json_schema=schema)), tokenizer, seed))
        assert len(value) == 2
        text = texts_at_random(factory.constraint(GenerationConfig(choice=["yes", "nö"])), tokenizer, seed)
        assert text in ("yes", "nö")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"a":[1,2]}', True),
        ('{"a": [1, 2]}', True),
        ('{\n  "a": [\n    1,\n    2\n  ]\n}', True),
        ('{\n\t"a": [\n\t\t1,\n\t\t2\n\t]\n}', True),
        ('{  "a": [1, 2]}', False),
        ('{\n\n"a": [1, 2]}', False),
        ('{\n \t"a": [1, 2]}', False),
        ("{\n" + 21 * " " + '"a": [1, 2]}', False),
        ('{"a":\r[1, 2]}', False),
    ],
)
def test_white_space_in_json_is_what_printers_write(factory, tokenizer, text, fits):
    """A token a byte, as tokens of several would be the tokenizer's matter."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}},
        "required": ["a"],
        "additionalProperties": False,
    }
    constraint = factory.constraint(GenerationConfig(json_schema=schema))

    def accept_all() -> None:
        for character in text:
            (token_id,) = tokenizer.encode(character, add_special=False)
            constraint.accept(token_id)

    if fits:
        accept_all()
        assert constraint.is_complete
    else:
        with pytest.raises(InferenceError, match="the grammar cannot go on"):
            accept_all()


def test_spelling_in_the_middle_of_a_text():
    tokenizer = Tokenizer.from_gguf(shared_path("vocabs", "ggml-vocab-llama-spm.gguf"))
    for text in ("{", "the", " the", "Hello, world", "\n", "ü"):
        assert b"".join(map(tokenizer.token_bytes, spell(tokenizer, text))) == text.encode()
    assert len(spell(tokenizer, "the")) == len(spell(tokenizer, " the")) == 1


class TestLimits:
    def test_chains_of_references_do_not_overflow_the_stack(self, factory):
        """A thread's usual stack ends at some 2,000, and the process with it."""
        n = 4000
        definitions = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(n)} | {f"d{n}": {"type": "null"}}
        schema = {"$ref": "#/$defs/d0", "$defs": definitions}
        with pytest.raises(InvalidConfigError, match="json_schema has"):
            factory.constraint(GenerationConfig(json_schema=schema))
        schema["$defs"] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(3000)} | {"d3000": {"type": "null"}}
        assert factory.constraint(GenerationConfig(json_schema=schema))
        rules = "".join(f"r{i}: r{i + 1}\n" for i in range(8000))
        assert factory.constraint(GenerationConfig(grammar=f"start: r0\n{rules}r8000: /a/\n"))

    @pytest.mark.parametrize("text", ["(" * 20000 + "a" + ")" * 20000, "a{1,1000}" * 2000], ids=["deep", "long"])
    def test_large_grammars_end_in_time(self, factory, text):
        start = time.monotonic()
        for options in ({"regex": text}, {"grammar": f"start: /{text}/"}, {"grammar": f"root ::= {text}"}):
            with contextlib.suppress(InvalidConfigError):
                factory.constraint(GenerationConfig(**options))
        assert time.monotonic() - start < 2 * grammar.COMPILE_SECONDS

    def test_nesting_of_schemas(self):
        def nested(depth):
            schema = {"type": "null"}
            for _ in range(depth):
                schema = {"items": schema}
            return schema

        assert GenerationConfig(json_schema=nested(60))
        with pytest.raises(InvalidConfigError, match="nested more than 64 levels"):
            GenerationConfig(json_schema=nested(70))
        with pytest.raises(InvalidConfigError, match="json_schema is not JSON"):
            GenerationConfig(json_schema="[" * 100000)

    @pytest.mark.parametrize("how", ["allOf", "nested", "references", "lark", "schema in lark"])
    def test_patterns_at_once(self, factory, how):
        """Forty of these would take a gigabyte before a limit of llguidance stops it."""
        patterns = [f"(a|b)*{'ab'[i % 2]}(a|b){{{i}}}" for i in range(40)]
        all_of = {"allOf": [{"type": "string", "pattern": pattern} for pattern in patterns]}
        nested = {}
        for pattern in patterns[:30]:
            nested = {"pattern": pattern, "anyOf": [nested, {"type": "null"}]}
        chain = {f"d{i}": {"pattern": pattern, "$ref": f"#/$defs/d{i + 1}"} for i, pattern in enumerate(patterns)}
        options = {
            "allOf": {"json_schema": all_of},
            "nested": {"json_schema": nested},
            "references": {"json_schema": {"$ref": "#/$defs/d0", "$defs": chain | {"d40": {"type": "string"}}}},
            "lark": {"grammar": "start: T\nT: " + " & ".join(f"/{pattern}/" for pattern in patterns)},
            "schema in lark": {"grammar": f"start: %json {json.dumps(all_of)}"},
        }
        start = time.monotonic()
        with pytest.raises(InvalidConfigError, match=r"patterns at once .* at most 12 are allowed"):
            factory.constraint(GenerationConfig(**options[how]))
        assert time.monotonic() - start < 2

    def test_many_patterns_beside_each_other_are_fine(self, factory):
        properties = {f"p{i}": {"type": "string", "pattern": f"^[a-z]{{{i}}}$"} for i in range(40)}
        schema = {"type": "object", "properties": properties, "allOf": [{"required": ["p1"]}]}
        assert factory.constraint(GenerationConfig(json_schema=schema))
        assert factory.constraint(GenerationConfig(grammar='start: %json {"type": "null"} "x"'))

    def test_length(self):
        with pytest.raises(InvalidConfigError, match="regex must be a string of 1 to 131072"):
            GenerationConfig(regex="a" * 200_000)
        with pytest.raises(InvalidConfigError, match=r"json_schema has .* at most 131072"):
            GenerationConfig(json_schema={"enum": ["a" * 200_000]})
        with pytest.raises(InvalidConfigError, match="lone surrogate"):
            GenerationConfig(grammar='start: "\ud800"')

    def test_time(self, factory, monkeypatch):
        release = threading.Event()
        monkeypatch.setattr(grammar, "COMPILE_SECONDS", 0.05)
        monkeypatch.setattr(GrammarCompiler, "_compile", lambda *_: release.wait(20))
        with pytest.raises(InvalidConfigError, match=r"regex cannot be used: it takes more than 0\.05 s"):
            factory.constraint(GenerationConfig(regex="a"))
        release.set()

    def test_stack_size_of_other_threads_stays(self, factory):
        before = threading.stack_size()
        factory.constraint(GenerationConfig(regex="abc"))
        assert threading.stack_size() == before

    def test_options_within_a_schema_do_not_loosen_it(self, factory):
        schema = {"x-guidance": {"lenient": True, "coerce_one_of": True}, "not": {"type": "null"}}
        with pytest.raises(InvalidConfigError, match="Unimplemented keys"):
            factory.constraint(GenerationConfig(json_schema=schema))


def test_the_table_is_made_once_and_late(tokenizer):
    calls = []

    def table():
        calls.append(1)
        return token_table(tokenizer, tokenizer.n_vocab)

    compiler = GrammarCompiler(table)
    assert not calls
    for regex in ("a", "b", "a"):
        assert isinstance(compiler.constraint("regex", regex), Constraint)
    assert len(calls) == 1


def test_only_so_many_grammars_are_kept(tokenizer, factory):
    for i in range(grammar._NUM_KEPT + 5):
        factory.constraint(GenerationConfig(regex=f"a{i}"))
    assert len(factory._grammars._compiled) == grammar._NUM_KEPT


def test_a_sampler_draws_from_what_is_allowed_in_the_model_s_proportions(factory, tokenizer):
    """The probabilities of the allowed tokens, renormalised: 99.9 % quantile, 2 degrees of freedom."""
    ids = [tokenizer.encode(letter)[0] for letter in "abc"]
    logits = np.zeros(tokenizer.n_vocab, np.float32)
    logits[ids] = 1.0, 2.0, 3.0
    config = GenerationConfig(regex="[abc]{4000}", temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, seed=2)
    sampler = Sampler(
        config, tokenizer.n_vocab, vocabulary=Vocabulary(tokenizer.eog_ids, constraint=factory.constraint(config))
    )
    drawn = [sampler.sample(logits) for _ in range(4000)]
    observed = np.array([drawn.count(i) for i in ids])
    expected = 4000 * np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    assert observed.sum() == 4000
    assert ((observed - expected) ** 2 / expected).sum() < 13.82
    assert sampler.constraint.is_complete


def test_an_interrupted_request_goes_on(factory, tokenizer):
    config = GenerationConfig(regex="[a-z]{40}", seed=4)
    logits = np.random.default_rng(0).normal(0, 1, tokenizer.n_vocab).astype(np.float32)
    whole = factory.create(config, [5])
    ids = [whole.sample(logits) for _ in range(20)]
    resumed = factory.create(config, [5])
    for token_id in ids[:10]:
        resumed.accept(token_id)
    assert [resumed.sample(logits) for _ in range(10)] == ids[10:]
