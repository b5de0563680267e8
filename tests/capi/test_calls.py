"""The library inside of Python, which it joins: every function, called through ctypes."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from densecore import DenseCore
from densecore.capi.metrics import BasicMetrics, DetailedMetrics
from densecore.data import builtin_model_path
from densecore.engine.kernel_thread import kernel_thread

PROMPT = "import os\n"
TokenCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p)
VectorCallback = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_float), ctypes.c_int, ctypes.c_void_p)


@pytest.fixture(scope="module")
def lib(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library / "libdensecore.so"))
    handle, text, number, pointer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p
    loaded.InitEngine.restype = handle
    loaded.InitEngine.argtypes = [text, text, number, number, number]
    loaded.FreeEngine.argtypes = [handle]
    loaded.SubmitRequest.argtypes = [handle, text, number, TokenCallback, pointer]
    loaded.SubmitRequestIds.argtypes = [handle, ctypes.POINTER(number), number, number, TokenCallback, pointer]
    loaded.SubmitRequestWithOptions.argtypes = [handle, text, text, TokenCallback, pointer]
    loaded.SubmitChatRequest.argtypes = [handle, text, text, TokenCallback, pointer]
    loaded.SubmitEmbeddingRequest.argtypes = [handle, text, VectorCallback, pointer]
    loaded.CancelRequest.argtypes = [handle, number]
    loaded.WaitRequest.argtypes = [handle, number, number]
    loaded.GetMetrics.restype, loaded.GetMetrics.argtypes = BasicMetrics, [handle]
    loaded.GetDetailedMetrics.restype, loaded.GetDetailedMetrics.argtypes = DetailedMetrics, [handle]
    loaded.GetLastError.restype = loaded.DenseCoreVersion.restype = text
    return loaded


@pytest.fixture(scope="module")
def engine(lib: ctypes.CDLL) -> Iterator[int]:
    handle = lib.InitEngine(str(builtin_model_path()).encode(), None, 0, -1, 0)
    assert handle, lib.GetLastError()
    yield handle
    lib.FreeEngine(handle)


@pytest.fixture(scope="module")
def model() -> Iterator[DenseCore]:
    with DenseCore(builtin_model_path()) as loaded:
        yield loaded


class Receiver:
    """A callback that keeps what it gets."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ends: list[int] = []
        self.threads: set[int] = set()
        self.began = threading.Event()
        self.callback = TokenCallback(self._take)

    def _take(self, token: bytes, is_finished: int, user_data: int | None) -> None:
        self.pieces.append(token)
        self.threads.add(threading.get_ident())
        self.began.set()
        if is_finished:
            self.ends.append(is_finished)

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode()


def test_greedy_text_is_that_of_the_sdk(lib: ctypes.CDLL, engine: int, model: DenseCore) -> None:
    wanted = model.generate(PROMPT, max_tokens=40, temperature=0)
    ids = model.prompt_tokens(PROMPT)
    from_text, from_ids = Receiver(), Receiver()
    first = lib.SubmitRequest(engine, PROMPT.encode(), 40, from_text.callback, None)
    second = lib.SubmitRequestIds(engine, (ctypes.c_int * len(ids))(*ids), len(ids), 40, from_ids.callback, None)
    assert 0 < first < second
    assert lib.WaitRequest(engine, first, -1) == lib.WaitRequest(engine, second, -1) == 0
    assert from_text.text == from_ids.text == wanted
    assert from_text.ends == from_ids.ends == [1]
    assert from_text.pieces[-1] == b""
    assert len(from_text.pieces) > 2
    assert threading.get_ident() not in from_text.threads


def test_options_and_chat_are_those_of_the_sdk(lib: ctypes.CDLL, engine: int, model: DenseCore) -> None:
    options = {"max_tokens": 12, "seed": 3, "temperature": 0.9, "stop_sequences": ["zzz"], "logit_bias": {"5": -1.0}}
    arguments = options | {"logit_bias": {5: -1.0}}
    messages = [{"role": "user", "content": "What is ü?"}]
    plain, chat = Receiver(), Receiver()
    given = json.dumps(options).encode()
    numbers = [
        lib.SubmitRequestWithOptions(engine, PROMPT.encode(), given, plain.callback, None),
        lib.SubmitChatRequest(engine, json.dumps(messages).encode(), given, chat.callback, None),
    ]
    assert [lib.WaitRequest(engine, number, -1) for number in numbers] == [0, 0]
    assert plain.text == model.generate(PROMPT, **arguments)
    assert chat.text == model.chat(messages, **arguments)


def test_cancel(lib: ctypes.CDLL, engine: int) -> None:
    receiver = Receiver()
    endless = b'{"max_tokens": 1000000, "ignore_eos": true, "context_shift": true}'
    number = lib.SubmitRequestWithOptions(engine, PROMPT.encode(), endless, receiver.callback, None)
    assert receiver.began.wait(60)
    assert lib.CancelRequest(engine, number) == 0
    assert lib.WaitRequest(engine, number, -1) == -1
    assert lib.GetLastError() == f"request {number} was cancelled".encode()
    assert receiver.ends == [-1]
    assert lib.CancelRequest(engine, number) == 0  # it has ended


def test_timeouts(lib: ctypes.CDLL, engine: int) -> None:
    receiver, patient = Receiver(), Receiver()
    late = lib.SubmitRequestWithOptions(engine, PROMPT.encode(), b'{"timeout": 1e-6}', receiver.callback, None)
    assert lib.WaitRequest(engine, late, -1) == -4
    assert receiver.ends == [-4]
    held = threading.Event()
    slow = TokenCallback(lambda token, is_finished, data: held.wait(30) and None)
    number = lib.SubmitRequest(engine, PROMPT.encode(), 2, slow, None)
    assert lib.WaitRequest(engine, number, 1) == -4  # the waiting alone has ended
    assert b"goes on" in lib.GetLastError()
    other = lib.SubmitRequest(engine, PROMPT.encode(), 2, patient.callback, None)  # computed beside a slow callback
    held.set()
    assert lib.WaitRequest(engine, number, -1) == lib.WaitRequest(engine, other, -1) == 0


def test_metrics(lib: ctypes.CDLL, engine: int) -> None:
    receiver = Receiver()
    number = lib.SubmitRequest(engine, PROMPT.encode(), 20, receiver.callback, None)
    assert lib.WaitRequest(engine, number, -1) == 0
    basic, detailed = lib.GetMetrics(engine), lib.GetDetailedMetrics(engine)
    assert basic.total_tokens_generated == detailed.total_tokens_generated >= 20
    assert basic.active_requests == detailed.waiting_requests == 0
    assert basic.tokens_per_second > 1
    assert 0 < detailed.time_to_first_token_seconds_p50 <= detailed.time_to_first_token_seconds_p99 < 60
    assert detailed.kv_cache_blocks_free == detailed.kv_cache_blocks_total > 0


def test_embeddings_answer_as_the_sdk_does(lib: ctypes.CDLL, engine: int, model: DenseCore) -> None:
    found: list[list[float]] = []
    callback = VectorCallback(lambda vector, size, data: found.append(vector[:size]))
    number = lib.SubmitEmbeddingRequest(engine, b"Hello world", callback, None)
    assert lib.WaitRequest(engine, number, -1) == 0
    assert found == [model.embed("Hello world", pooling="model").tolist()]


def test_embeddings_wait_for_their_turn(lib: ctypes.CDLL, engine: int) -> None:
    """They are submitted while nothing can be computed, so that one can be cancelled, too."""
    sizes: list[int] = []
    callback = VectorCallback(lambda vector, size, data: sizes.append(size if vector else -1))
    is_held, release = threading.Event(), threading.Event()
    holder = threading.Thread(target=lambda: kernel_thread.call(lambda: (is_held.set(), release.wait(60))))
    holder.start()
    assert is_held.wait(60)
    first = lib.SubmitEmbeddingRequest(engine, b"Hello world", callback, None)
    second = lib.SubmitEmbeddingRequest(engine, b"Hello world", callback, None)
    assert lib.WaitRequest(engine, first, 0) == -4
    assert lib.CancelRequest(engine, second) == 0
    release.set()
    holder.join()
    assert lib.WaitRequest(engine, second, -1) == -1
    assert lib.GetLastError() == f"request {second} was cancelled".encode()
    assert lib.WaitRequest(engine, first, -1) == 0
    assert sizes == [-1, 256]


def test_errors(lib: ctypes.CDLL, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    assert not lib.InitEngine(str(broken).encode(), None, 0, -1, 0)
    assert str(broken).encode() in lib.GetLastError()
    assert lib.SubmitRequest(0xDC01, b"x", 1, Receiver().callback, None) == -1
    assert b"no engine" in lib.GetLastError()
    assert lib.GetDetailedMetrics(None).num_threads == 0
    assert b"NULL is no engine" in lib.GetLastError()
    seen: list[bytes] = []
    thread = threading.Thread(target=lambda: seen.append(lib.GetLastError()))
    thread.start()
    thread.join()
    assert seen == [b""]  # errors belong to threads


def test_engines_leave_nothing_behind(lib: ctypes.CDLL) -> None:
    def cycle() -> None:
        receiver = Receiver()
        handle = lib.InitEngine(str(builtin_model_path()).encode(), None, 0, -1, 0)
        for _ in range(20):
            assert lib.SubmitRequest(handle, PROMPT.encode(), 2, receiver.callback, None) > 0
        lib.FreeEngine(handle)
        assert len(receiver.ends) == 20

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    cycle()
    before, threads = resident(), threading.active_count()
    for _ in range(8):
        cycle()
    assert threading.active_count() == threads
    assert resident() - before < 40e6  # an engine of this model has some 30 MB
