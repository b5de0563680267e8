"""``densecore convert`` as a process: what it prints, and that nothing it is killed in breaks a file."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

from densecore.gguf import GGUFFile
from tests.convert.tiny import recorded, write_checkpoint


def command(*arguments):
    return [sys.executable, "-m", "densecore", "convert", *map(str, arguments)]


def test_prints_the_path(tmp_path):
    source = write_checkpoint(tmp_path / "tiny-llama", *recorded("llama"))
    target = tmp_path / "out.gguf"
    result = subprocess.run(command(source, target, "--outtype", "q8_0"), capture_output=True, text=True, check=True)
    assert result.stdout == f"{target}\n"
    assert "(100 %)" in result.stderr
    with GGUFFile.open(target) as file:
        assert file.metadata["general.name"] == "tiny-llama"
    quiet = subprocess.run(command(source, target, "-q", "--name", "X"), capture_output=True, text=True, check=True)
    assert quiet.stderr == ""
    (source / "config.json").write_text("{}")
    failed = subprocess.run(command(source, target), capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == f"densecore: error: {source}/config.json: model_type is missing; allowed: a string\n"
    with GGUFFile.open(target) as file:
        assert file.metadata["general.name"] == "X"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=lambda sign: sign.name)
def test_killed_while_writing(tmp_path, sign):
    """The old file stays as it was until the new one is complete."""
    config, tensors = recorded("llama")
    wide = np.zeros((1 << 18, 64), np.float32)
    sizes = {"gate_proj": wide, "up_proj": wide, "down_proj": wide.T}
    tensors = {name: sizes.get(name.split(".")[-2], values) for name, values in tensors.items()}
    source = write_checkpoint(tmp_path / "source", config | {"intermediate_size": 1 << 18}, tensors)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.gguf").write_bytes(b"old")
    arguments = command(source, out / "model.gguf", "--outtype", "q8_0")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert " %)" in process.stderr.readline()  # the first tenth is written
        process.send_signal(sign)
        assert process.wait(30) != 0
    assert (out / "model.gguf").read_bytes() == b"old"
    if sign == signal.SIGINT:
        assert [path.name for path in out.iterdir()] == ["model.gguf"]
