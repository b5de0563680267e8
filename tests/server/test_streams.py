"""From events to frames: what is encoded once, what is sent at once, and what garbage collections leave out."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from densecore.engine.sequence import Finished
from densecore.llm import GenerationResult, TextPiece
from densecore.server.records import RequestRecord
from densecore.server.sse import DONE, TextFrame, frame
from densecore.server.streaming import frames

from .conftest import Running


@pytest.mark.parametrize("text", ["a", "", '"', "\\", '"TEXT"', "\n\r\0", "é🦙\u2028", "</script>"])
@pytest.mark.parametrize("name", ["m", 'TEXT", "TEXT"', '"TEXT"'])
def test_a_text_frame_is_the_frame_of_the_whole(text: str, name: str) -> None:
    def shape(text: str) -> dict:
        return {"model": name, "choices": [{"delta": {"content": text}, "finish_reason": None}], "usage": None}

    assert TextFrame(shape)(text) == frame(shape(text))


class Lines:
    """An answer that is told in the simplest chunks."""

    def begin(self) -> Iterator[bytes]:
        yield b"begin\n"

    def piece(self, index: int, piece: TextPiece) -> Iterator[bytes]:
        yield f"{index} {piece.text!r}\n".encode()

    def end(self, index: int, result: GenerationResult) -> Iterator[bytes]:
        yield f"{index} {result.finish_reason}\n".encode()

    def usage(self, results: list[GenerationResult]) -> Iterator[bytes]:
        yield f"{len(results)} answers\n".encode()


def test_what_has_come_is_sent_at_once(builtin: Running) -> None:
    async def sent() -> list[bytes]:
        streams = [await builtin.model.open_stream("import", max_tokens=5, temperature=0) for _ in range(2)]
        await asyncio.to_thread(builtin.wait_until_idle)
        waiting = [stream._events._queue for stream in streams]
        while not all(queue and isinstance(queue[-1], Finished) for queue in waiting):  # the last are on their way
            await asyncio.sleep(0.01)
        record = RequestRecord("id", "POST", "/")
        found = [part async for part in frames(Lines(), streams, builtin.service, record)]
        assert len(record.results) == 2
        return found

    text = builtin.model.generate("import", max_tokens=5, temperature=0)
    begin, everything, end = asyncio.run(sent())
    assert (begin, end) == (b"begin\n", b"2 answers\n" + DONE)
    lines = everything.decode().splitlines()
    for index in "01":
        *pieces, last = [line[2:] for line in lines if line[0] == index]
        assert last == "length"
        assert len(pieces) > 1
        assert "".join(map(ast.literal_eval, pieces)) == text


def test_models_that_have_come_are_left_out_of_garbage_collections_until_they_go() -> None:
    code = """
import gc, json, weakref
from densecore.server.garbage import settle

class Model:
    def __init__(self):
        self.itself = self

model = Model()
alive, found = weakref.ref(model), []
settle()
found.append(gc.get_freeze_count() > 1000)
del model
gc.collect()
found.append(alive() is not None)
settle()
found.append(alive() is None)
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, True, True]
