"""Random damage: a file opens, or is refused with a ModelLoadError; nothing else ever happens."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from tests.gguf.raw_file import DATA, build

VALID = build()
HEAD = len(VALID) - len(DATA)
INTERESTING = [0, 1, 2, 7, 13, 31, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 61, 1 << 63, (1 << 64) - 1]
PLACES = st.integers(0, HEAD - 1)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.gguf"


def open_and_use(path: Path, content: bytes) -> None:
    """Opens `content`; what opens must also be whole: every value and every tensor can be read."""
    path.unlink(missing_ok=True)  # rather than overwrite what an earlier map still shows
    path.write_bytes(content)
    message = ""
    try:
        file = GGUFFile.open(path)
    except ModelLoadError as error:
        message = str(error)
    if message:
        assert message.isprintable()
        return
    with file:
        dict(file.metadata)
        for name, tensor in file.tensors.items():
            assert len(file.tensor_data(name)) == tensor.n_bytes > 0
            assert tensor.offset + tensor.n_bytes <= len(content)


@settings(deadline=None, max_examples=300)
@given(changes=st.dictionaries(PLACES, st.integers(0, 255), max_size=8), size=st.integers(0, len(VALID)))
def test_changed_bytes(path, changes, size):
    content = bytearray(VALID)
    for place, byte in changes.items():
        content[place] = byte
    open_and_use(path, bytes(content))
    open_and_use(path, bytes(content[:size]))


@settings(deadline=None, max_examples=300)
@given(place=PLACES, number=st.sampled_from(INTERESTING), wide=st.booleans())
def test_changed_numbers(path, place, number, wide):
    raw = struct.pack("<Q", number) if wide else struct.pack("<I", number & 0xFFFFFFFF)
    open_and_use(path, VALID[:place] + raw + VALID[place + len(raw) :])


@settings(deadline=None, max_examples=200)
@given(first=PLACES, second=PLACES, inserted=st.binary(max_size=24))
def test_removed_and_inserted_bytes(path, first, second, inserted):
    low, high = sorted((first, second))
    open_and_use(path, VALID[:low] + inserted + VALID[high:])


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=200), version=st.sampled_from([2, 3]))
def test_noise_after_a_right_start(path, content, version):
    open_and_use(path, b"GGUF" + struct.pack("<I", version) + content)
