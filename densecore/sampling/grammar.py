"""Grammars for outputs, compiled by llguidance for a model's vocabulary.

Compiling runs in a thread of its own with a large stack and a deadline: a schema's chain of references is followed
by recursion, and a stack that overflows ends the process. Nothing here is ever called on the kernel thread.

Source: the Earley parser over derivatives of regular expressions of https://github.com/guidance-ai/llguidance.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from densecore.exceptions import InvalidConfigError
from densecore.sampling.constraint import Constraint, explain
from densecore.sampling.grammar_limits import check_intersections

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarCompiler", "TokenTable"]

COMPILE_SECONDS = 10.0
_STACK_BYTES = 2**28  # reserved, not used: 100,000 characters of references to references need a quarter of it
_NUM_KEPT = 32  # compiled grammars, the least recently used of which goes first
_NUM_COMPILING = 4  # threads at once
# A small model can write white space for ever. Printers put a space between two tokens, or a line break and what
# indents the next line; without line breaks a model that writes an item a line could not say that one is the last.
_JSON_OPTIONS = {
    "whitespace_pattern": r" |\n( {0,20}|\t{0,8})",
    "whitespace_flexible": True,
    "coerce_one_of": False,
    "lenient": False,
    "item_separator": ",",
    "key_separator": ":",
}
_LIMITS: dict[str, Any] = {  # of llguidance: seconds of work at most, and tens of MB
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}


@dataclass(frozen=True)
class TokenTable:
    """A vocabulary as llguidance wants it.

    Attributes
    ----------
    tokens : (n_vocab,) what each token adds to the text; for special ones their names.
    special_ids : tokens that are no text.
    eog_ids : ids that end a generation.
    bos_id : id that begins a text, or None.
    encode : text -> ids of it and nothing else.
    """

    tokens: Sequence[bytes]
    special_ids: Sequence[int]
    eog_ids: frozenset[int]
    bos_id: int | None
    encode: Callable[[str], list[int]]


class GrammarCompiler:
    """Compiles what requests ask for. Any thread may use it; `table` is called once, when first needed."""

    def __init__(self, table: Callable[[], TokenTable]) -> None:
        self._table = table
        self._tokenizer: LLTokenizer | None = None
        self._eog_ids: frozenset[int] = frozenset()
        self._compiled: OrderedDict[tuple[str, Any], LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def constraint(self, kind: str, source: Any) -> Constraint:
        """A constraint at its beginning for one of `densecore.config.STRUCTURES`; the same again is cheap.

        Raises InvalidConfigError if the schema or grammar is wrong, uses what is not supported, or takes too long.
        """
        with self._lock:
            matcher = self._compiled.get((kind, source))
            if matcher is not None:
                self._compiled.move_to_end((kind, source))
        if matcher is None:
            matcher = _in_time(kind, lambda: self._compile(kind, source))
            self._keep((kind, source), matcher)
        return Constraint(matcher.deep_copy(), self._eog_ids)

    def _keep(self, key: tuple[str, Any], matcher: LLMatcher) -> None:
        with self._lock:
            self._compiled[key] = matcher
            if len(self._compiled) > _NUM_KEPT:
                self._compiled.popitem(last=False)

    def _compile(self, kind: str, source: Any) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        try:
            check_intersections(kind, source)
            lark = _SOURCES[kind](source)
        except Exception as error:  # the converter of GBNF has no narrower class
            raise _invalid(kind, str(error)) from error
        grammar = LLMatcher.grammar_from_lark(lark)
        matcher = LLMatcher(self._llguidance_tokenizer(), grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds grammars that match nothing, and warms what copies share
        if matcher.is_error():
            raise _invalid(kind, matcher.get_error())
        return matcher

    def _llguidance_tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                table = self._table()
                self._eog_ids = table.eog_ids
                self._tokenizer = _tokenizer(table)
            return self._tokenizer


_slots = threading.BoundedSemaphore(_NUM_COMPILING)
_stack_size_lock = threading.Lock()


def _in_time(kind: str, compile_it: Callable[[], LLMatcher]) -> LLMatcher:
    """The result of `compile_it`, computed in a thread with a large stack."""
    future: Future[LLMatcher] = Future()

    def work() -> None:
        try:
            future.set_result(compile_it())
        except BaseException as error:
            future.set_exception(error)
        finally:
            _slots.release()

    if not _slots.acquire(timeout=COMPILE_SECONDS):
        raise _invalid(kind, f"{_NUM_COMPILING} others have been compiling for {COMPILE_SECONDS:g} s; try again")
    _start(threading.Thread(target=work, name="densecore-compile-grammar", daemon=True))
    try:
        return future.result(COMPILE_SECONDS)
    except FutureTimeoutError:
        raise _invalid(kind, f"it takes more than {COMPILE_SECONDS:g} s to compile; make it simpler") from None


def _start(thread: threading.Thread) -> None:
    """Start a thread with a large stack: the size is a setting of the process at the moment of the start."""
    with _stack_size_lock:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)


def _invalid(kind: str, reason: str) -> InvalidConfigError:
    reason = explain(reason.partition("\n   1 | ")[0])  # what follows shows the grammar around the error
    if reason.startswith("NoExtension"):
        reason = "no text matches it"
    if "coerce_one_of" in reason:
        reason = "oneOf is supported where its branches exclude each other by their types or strings; use anyOf instead"
    return InvalidConfigError(f"{kind} cannot be used: {reason}")


# llguidance may narrow what comes next to the tokens by which the tokenizer would write it. That needs an encoding that
# works in the middle of a text, which not every kind of tokenizer has; without it all tokens that fit are allowed.
_EXACT = '\n%llguidance {"no_forcing": true}'
_OPTIONS_LINE = re.compile(r"^[ \t]*%llguidance[ \t]*(\{.*\})[ \t]*$", re.MULTILINE)


def _json_grammar(schema: str) -> str:
    options = json.loads(schema) | {"x-guidance": _JSON_OPTIONS}
    return f"start: %json {json.dumps(options)}{_EXACT}"


def _regex_grammar(regex: str) -> str:
    from llguidance import LLMatcher

    return json.loads(LLMatcher.grammar_from_regex(regex))["grammars"][0]["lark_grammar"] + _EXACT


def _text_grammar(text: str) -> str:
    """Of a grammar in Lark syntax, which has a rule ``start``, or in GBNF, which has a rule ``root``."""
    from llguidance.gbnf_to_lark import any_to_lark

    lark = any_to_lark(text)
    found = _OPTIONS_LINE.search(lark)
    if found is None:
        return lark + _EXACT
    options = json.loads(found[1]) | {"no_forcing": True}
    return f"{lark[: found.start()]}%llguidance {json.dumps(options)}{lark[found.end() :]}"


def _choice_grammar(choices: Sequence[str]) -> str:
    alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return f"start: {alternatives}{_EXACT}"


_SOURCES: dict[str, Callable[[Any], str]] = {
    "json_mode": lambda _: _json_grammar('{"type": "object"}'),
    "json_schema": _json_grammar,
    "regex": _regex_grammar,
    "choice": _choice_grammar,
    "grammar": _text_grammar,
}


class _Encoder:
    """What llguidance asks of a tokenizer: the attributes and the call that its TokenizerWrapper forwards."""

    def __init__(self, table: TokenTable) -> None:
        self.tokens = list(table.tokens)
        self.special_token_ids = list(table.special_ids)
        self.bos_token_id = table.bos_id
        self._encode = table.encode
        if not table.eog_ids:  # llguidance needs an id for the end: one that no logit belongs to
            self.special_token_ids.append(len(self.tokens))
            self.tokens.append(b"<no end of generation>")
        self.eos_token_ids = sorted(table.eog_ids) or [len(self.tokens) - 1]
        self.eos_token_id = self.eos_token_ids[0]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _tokenizer(table: TokenTable) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    encoder = _Encoder(table)
    return LLTokenizer(TokenizerWrapper(encoder), eos_token=encoder.eos_token_ids)
