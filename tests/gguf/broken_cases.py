"""Broken GGUF files: name -> contents and the words that the complaint must contain.

Every case differs from a valid file (``raw_file.build()``) in one field.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import NamedTuple

from tests.gguf.raw_file import (
    ARRAY,
    BOOL,
    DATA,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    PAIRS,
    STRING,
    TENSORS,
    U8,
    U16,
    U32,
    U64,
    array,
    build,
    pair,
    scalar,
    tensor,
    text,
    u32,
    u64,
)

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    content: bytes
    words: tuple[str, ...]


HUGE = {
    "2**31": 1 << 31,
    "2**32-1": (1 << 32) - 1,
    "2**61": 1 << 61,
    "2**63": 1 << 63,
    "2**64-1": (1 << 64) - 1,
}
BAD_UTF8 = {
    "lone continuation": b"ab\x80",
    "overlong slash": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "cut sequence": b"ab\xe4\xb8",
    "latin-1": "caf\u00e9".encode("latin-1"),
    "utf-16": b"\xff\xfea\x00",
}
NUMBERS = {U8: "u8", I8: "i8", U16: "u16", I16: "i16", U32: "u32", I32: "i32",
           F32: "f32", BOOL: "bool", U64: "u64", I64: "i64", F64: "f64"}  # fmt: skip
SPACE = scalar("space", STRING, "x" * 500)  # keeps the counts of the header possible in files that are cut


def one_pair(raw: bytes) -> bytes:
    """A file whose only pair is `raw`."""
    return build([raw], [], b"", alignment=1)


def one_tensor(raw: bytes, data: bytes = DATA) -> bytes:
    """A file whose only tensor is `raw`."""
    return build(PAIRS, [raw], data)


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    return buffer.getvalue()


def other_formats() -> dict[str, Case]:
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    safetensors = u64(60) + b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} ' + bytes(4)
    contents = {
        "empty": (b"", "empty"),
        "one byte": (b"G", "magic"),
        "three bytes of magic": (b"GGU", "magic"),
        "zeros": (bytes(4096), "magic"),
        "text": (b"hello world, this is not a model", "magic"),
        "lower case magic": (b"gguf" + bytes(100), "magic"),
        "safetensors": (safetensors, "safetensors"),
        "pickle": (pickle.dumps({"weight": list(range(50))}, protocol=2), "pickle"),
        "zip": (zip_file(), "zip"),
        "git lfs pointer": (lfs, "git lfs"),
        "html": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        "html after blank lines": (b"\n\n  <html lang=en>", "web page"),
        "xml": (b'<?xml version="1.0"?><Error/>', "web page"),
        "json": (b'{"error": "not found"}', "JSON"),
        "gzip": (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        "numpy": (b"\x93NUMPY\x01\x00" + bytes(50), "NumPy"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        "ggml": (b"lmgg" + bytes(50), "before GGUF"),
        "ggjt": (b"tjgg" + u32(3) + bytes(50), "before GGUF"),
        "ggmf": (b"fmgg" + u32(1) + bytes(50), "before GGUF"),
        "byte order mark": (b"\xef\xbb\xbfGGUF" + build()[4:], "magic"),
        "one byte before": (b"\0" + build(), "magic"),
        "magic swapped": (b"FUGG" + build()[4:], "swapped"),
        "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        "big-endian version 2": (b"GGUF" + struct.pack(">IQQ", 2, 0, 0), "big-endian"),
    }
    return {f"not gguf: {name}": Case(raw, (word,)) for name, (raw, word) in contents.items()}


def headers() -> dict[str, Case]:
    cases = {
        f"version {version}": Case(build(version=version), ("version", str(version), "2 or 3"))
        for version in (0, 1, 4, 255, (1 << 32) - 1)
    }
    for n_bytes in (4, 6, 8, 12, 16, 20, 23):
        field = "version" if n_bytes < 8 else "tensor_count" if n_bytes < 16 else "metadata_kv_count"
        cases[f"{n_bytes} bytes of header"] = Case(build()[:n_bytes], ("header", field, "left in the file"))
    for name, count in {**HUGE, "more than fit": 60}.items():
        cases[f"tensor_count {name}"] = Case(build(n_tensors=count), ("tensor_count", str(count), "at most"))
        cases[f"pair count {name}"] = Case(build(n_pairs=count), ("metadata_kv_count", str(count), "at most"))
    cases["tensor_count too large by one"] = Case(build(n_tensors=4), ("tensor 3",))
    cases["tensor_count 1 without any"] = Case(build([], [], b"", n_tensors=1), ("tensor_count", "at most 0"))
    cases["metadata_kv_count too large by one"] = Case(build(n_pairs=6), ("metadata",))
    cases["metadata_kv_count too small"] = Case(build(n_pairs=4), ("tensor",))
    cases["metadata_kv_count 0"] = Case(build(n_pairs=0), ("tensor",))
    return {f"header: {name}": case for name, case in cases.items()}


def cut_pair(raw: bytes, keep: int) -> bytes:
    """A file that ends after `keep` bytes of the pair `raw`; from its end if negative."""
    return build([SPACE, raw[:keep]], [], b"", alignment=1)


def cut_tensor(keep: int) -> bytes:
    """A file that ends after `keep` bytes of the first entry of the tensor table."""
    return build([SPACE], [TENSORS[0][:keep]], b"", alignment=1)


def cut_files() -> dict[str, Case]:
    """Files that end in the middle of each kind of field."""
    string, tokens = scalar("test.key", STRING, "value"), array("test.key", STRING, ["token", "other"])
    cases = {
        "key length": (cut_pair(string, 3), "key 1 length"),
        "key": (cut_pair(string, 12), "key 1 length"),
        "value type": (cut_pair(string, 18), "'test.key' type"),
        "string length": (cut_pair(string, 25), "'test.key' length"),
        "string": (cut_pair(string, -1), "'test.key' length"),
        "array element type": (cut_pair(tokens, 22), "'test.key' array element type"),
        "array length": (cut_pair(tokens, 28), "'test.key' array length"),
        "length of an element": (cut_pair(tokens, -9), "'test.key' element 1 length"),
        "element": (cut_pair(tokens, -1), "'test.key' element 1 length"),
        "tensor name length": (cut_tensor(5), "tensor 0 name length"),
        "tensor name": (cut_tensor(12), "tensor 0 name length"),
        "tensor dimension": (cut_tensor(33), "'a.weight' dimension 1"),
        "tensor type": (cut_tensor(38), "'a.weight' type"),
        "tensor offset": (cut_tensor(45), "'a.weight' offset"),
        "padding": (build()[: -len(DATA) - 1], "'a.weight' data"),
        "start of the data": (build()[: -len(DATA)], "'a.weight' data"),
        "first tensor": (build()[: 100 - len(DATA)], "'a.weight' data"),
        "second tensor": (build()[: 190 - len(DATA)], "'b.weight' data"),
        "last byte": (build()[:-1], "'c.weight' data"),
    }
    for kind, name in NUMBERS.items():
        cases[f"{name} value"] = (cut_pair(scalar("test.key", kind, 1), -1), "'test.key'")
        cases[f"{name} array"] = (cut_pair(array("test.key", kind, [1, 1]), -1), "'test.key' array length")
    return {f"cut in {name}": Case(raw, (word,)) for name, (raw, word) in cases.items()}


def metadata() -> dict[str, Case]:
    string = u32(1) * 4
    cases = {
        "empty key": (pair("", U32, u32(1)), "key 0 length", "1 to 65535"),
        "key of 65536 bytes": (scalar("k" * 65536, U32, 1), "key 0 length", "65536"),
        "array of arrays": (
            pair("k", ARRAY, u32(ARRAY) + u64(1) + u32(U8) + u64(1) + b"x"),
            "array of arrays", "nested",
        ),
        "array of arrays, 10,000 deep": (
            pair("k", ARRAY, (u32(ARRAY) + u64(1)) * 10000 + u32(U8) + u64(0)),
            "nested",
        ),
        "empty array of arrays": (pair("k", ARRAY, u32(ARRAY) + u64(0)), "nested"),
        "string array of one negative length": (
            pair("k", ARRAY, u32(STRING) + u64(1) + u64((1 << 64) - 5)),
            "'k' element 0 length", "left",
        ),
        "string array whose lengths wrap to its start": (
            pair("k", ARRAY, u32(STRING) + u64(2) + u64((1 << 64) - 8) + string),
            "'k' element 0 length",
        ),
        "string array of one length too large by one": (
            pair("k", ARRAY, u32(STRING) + u64(2) + text("ab") + text("cd", 3)),
            "'k' element 1 length", "3",
        ),
    }  # fmt: skip
    for number in (13, 14, 255, 256, 1 << 31, (1 << 32) - 1):
        cases[f"value type {number}"] = (pair("k", number, bytes(64)), "'k' type", str(number), "0 to 12")
        cases[f"array element type {number}"] = (
            pair("k", ARRAY, u32(number) + u64(1) + bytes(64)),
            "'k' array element type", str(number), "0 to 12",
        )  # fmt: skip
    for number in (2, 128, 255):
        cases[f"bool {number}"] = (pair("k", BOOL, bytes([number])), "'k'", str(number), "0 or 1")
        cases[f"bool {number} in an array"] = (
            pair("k", ARRAY, u32(BOOL) + u64(3) + bytes([0, 1, number])),
            "'k'", str(number), "0 or 1",
        )  # fmt: skip
    for name, length in HUGE.items():
        cases[f"key length {name}"] = (
            pair("key", U32, u32(1), key_length=length),
            "key 0 length",
            str(length),
        )
        cases[f"string length {name}"] = (pair("k", STRING, u64(length) + b"abc"), "'k' length", str(length))
        cases[f"string array of {name}"] = (
            array("k", STRING, ["a"], count=length),
            "'k' array length",
            str(length),
        )
        for kind in (U8, F32, U64):
            raw = array("k", kind, [1], count=length)
            cases[f"{NUMBERS[kind]} array of {name}"] = (raw, "'k' array length", str(length), "at most")
    result = {name: Case(one_pair(raw), words) for name, (raw, *words) in cases.items()}
    for name, raw in BAD_UTF8.items():
        files = {
            "key": (one_pair(pair(raw, U32, u32(1))), "key 0"),
            "string": (one_pair(pair("k", STRING, text(raw))), "'k'"),
            "token": (one_pair(pair("k", ARRAY, u32(STRING) + u64(2) + text("ok") + text(raw))), "element 1"),
            "tensor name": (one_tensor(tensor(raw, (3,), 0, 0)), "tensor 0 name"),
        }
        for where, (content, word) in files.items():
            result[f"{name} in a {where}"] = Case(content, (word, "UTF-8"))
    split_character = text(b"\xe4\xb8") + text(b"\x96")
    raw = pair("k", ARRAY, u32(STRING) + u64(2) + split_character)
    result["character split over two tokens"] = Case(one_pair(raw), ("'k' element 0", "UTF-8"))
    duplicate = scalar("test.u32", U32, 8)
    result["duplicate key"] = Case(build([*PAIRS, duplicate]), ("test.u32", "duplicate"))
    result["duplicate key of other type"] = Case(build([*PAIRS, scalar("test.u32", STRING, "")]), ("duplicate",))
    return {f"metadata: {name}": case for name, case in result.items()}


def alignments() -> dict[str, Case]:
    cases = {f"{n}": scalar("general.alignment", U32, n) for n in (0, 1, 4, 12, 24, 33, (1 << 31) + 1)}
    cases |= {
        "as u64": scalar("general.alignment", U64, 32),
        "as i32": scalar("general.alignment", I32, 32),
        "negative": scalar("general.alignment", I32, -32),
        "as f32": scalar("general.alignment", F32, 32.0),
        "as bool": scalar("general.alignment", BOOL, True),
        "as string": scalar("general.alignment", STRING, "32"),
        "as array": array("general.alignment", U32, [32]),
    }
    result = {name: Case(build([*PAIRS, raw]), ("general.alignment",)) for name, raw in cases.items()}
    beyond = build([*PAIRS, scalar("general.alignment", U32, 1 << 31)])
    result["beyond the file"] = Case(beyond, ("offset", "2147483648"))  # tensor b lies at offset 128
    return {f"alignment: {name}": case for name, case in result.items()}


def tensors() -> dict[str, Case]:
    cases = {
        "empty name": (tensor("", (3,), 0, 0), "tensor 0 name length", "1 to 64"),
        "name of 65 bytes": (tensor("n" * 65, (3,), 0, 0), "tensor 0 name length", "65"),
        "0 dimensions": (tensor("t", (), 0, 0, n_dims=0) + bytes(8), "'t' n_dims", "1 to 4"),
        "5 dimensions": (tensor("t", (1, 1, 1, 1, 1), 0, 0), "'t' n_dims", "5", "1 to 4"),
        "2**32-1 dimensions": (tensor("t", (1,), 0, 0, n_dims=(1 << 32) - 1), "'t' n_dims", "1 to 4"),
        "product of 2**64": (tensor("t", (1 << 32, 1 << 32), 0, 0), "'t' dimensions", "at most"),
        "product of 2**64 + 32": (tensor("t", (32, (1 << 59) + 1), 0, 0), "'t' dimensions", "at most"),
        "product of 2**256": (tensor("t", (1 << 63,) * 4, 0, 0), "'t' dimensions", "at most"),
        "bytes of 2**64": (tensor("t", (1 << 31, 1 << 31), 0, 0), "'t' data", "ends"),
        "one element too many": (tensor("t", (60,), 0, 0), "'t' data", "240", "truncated"),
        "offset one step too far": (tensor("t", (3,), 0, 256), "'t' data", "truncated"),
    }
    for axis in range(4):
        dims = [1, 1, 1, 1]
        dims[axis] = 0
        cases[f"dimension {axis} of 0"] = (
            tensor("t", dims, 0, 0),
            f"'t' dimension {axis}",
            "is 0",
            "at least 1",
        )
    for name, size in HUGE.items():
        cases[f"dimension {name}"] = (
            tensor("t", (size,), 0, 0),
            "'t' d",
            str(size * 4 if size < 1 << 63 else size),
        )
        cases[f"second dimension {name}"] = (tensor("t", (32, size), 8, 0), "'t' d")
        cases[f"offset {name}"] = (tensor("t", (3,), 0, size & -32), "'t' data")
    for number in (4, 5, 31, 32, 33, 36, 37, 38, 42, 255, 1 << 31, (1 << 32) - 1):
        word = "removed" if number in (4, 5, 31, 32, 33) else "unknown"
        cases[f"type {number}"] = (tensor("t", (256,), number, 0), "'t' type", str(number), word)
    for kind, block in ((2, 32), (8, 32), (12, 256), (14, 256), (16, 256), (20, 32), (39, 32), (41, 128)):
        for size in (1, block - 1, block + block // 2):
            raw = tensor("t", (size, 2), kind, 0)
            cases[f"type {kind} with rows of {size}"] = (
                raw,
                "'t' dimension 0",
                "row",
                f"multiple of {block}",
            )
    for offset in (1, 4, 16, 31, 33, (1 << 64) - 1):
        cases[f"offset {offset}"] = (tensor("t", (3,), 0, offset), "'t' offset", str(offset), "multiple")
    result = {name: Case(one_tensor(raw), words) for name, (raw, *words) in cases.items()}
    return {f"tensor: {name}": case for name, case in (result | placements()).items()}


def placements() -> dict[str, Case]:
    """Tensors that are fine each by itself, and not together."""
    a, b, c = TENSORS
    pairs = {
        "duplicate name": ([a, b, tensor("a.weight", (3,), 0, 224)], "tensor 2 name", "each name once"),
        "duplicate name and data": ([a, b, a], "tensor 2 name", "each name once"),
        "same place": ([a, b, tensor("t", (3,), 0, 128)], "'t' data", "overlaps", "b.weight"),
        "starts inside": ([a, tensor("t", (3,), 0, 64), c], "'t' data", "overlaps", "a.weight"),
        "contains": ([tensor("t", (59,), 0, 0), b], "'b.weight' data", "overlaps", "'t'"),
        "ends inside": ([b, c, tensor("t", (40,), 0, 0)], "'b.weight' data", "overlaps", "'t'"),
        "last entry first in the file": ([c, b, tensor("t", (33,), 0, 0)], "'b.weight' data", "overlaps"),
    }
    return {name: Case(build(PAIRS, table), words) for name, (table, *words) in pairs.items()}


CASES = other_formats() | headers() | cut_files() | metadata() | alignments() | tensors()
