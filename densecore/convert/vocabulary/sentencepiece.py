"""``tokenizer.model``: the file of the SentencePiece library, a message of Protocol Buffers.

Only what a GGUF file holds is read: pieces with scores and types, the kind of model, and how text is normalized.
Source: ``sentencepiece_model.proto`` for the numbers of the fields, and the encoding of Protocol Buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import load_error

__all__ = ["BPE", "UNIGRAM", "SentencePieceModel", "read_sentencepiece"]

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
MAX_FILE_BYTES = 1 << 28


@dataclass
class SentencePieceModel:
    """What a tokenizer.model says; defaults are those of the format."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)  # text, score, type: numbers of TokenType
    kind: int = UNIGRAM
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a tokenizer.model; ModelLoadError if it is broken."""
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else b""
        model = SentencePieceModel()
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                model.pieces.append(_piece(value))
            elif number == 2 and isinstance(value, bytes):
                model.kind = next((v for n, v in _fields(value) if n == 3 and isinstance(v, int)), UNIGRAM)
            elif number == 3 and isinstance(value, bytes):
                _read_normalizer(model, value)
    except (ValueError, IndexError, struct.error) as error:
        raise load_error(path, "file", f"is broken: {error}", "a model of SentencePiece") from None
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot read the file: {error.strerror}") from error
    if not model.pieces:
        raise load_error(path, "file", "holds no pieces", "a model of SentencePiece")
    return model


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    if not 1 <= kind <= 6:
        raise ValueError(f"the piece {text!r} is of type {kind}")
    return text, score, kind


def _read_normalizer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            model.charsmap = value
        elif number == 3:
            model.add_dummy_prefix = bool(value)
        elif number == 4:
            model.remove_extra_whitespaces = bool(value)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: numbers as int, all else as bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > len(data):
            raise ValueError(f"a field ends {position + length - len(data)} bytes behind its message")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number of more than 10 bytes before byte {position}")
