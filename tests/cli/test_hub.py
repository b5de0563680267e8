"""``densecore pull``, ``list`` and ``rm``, and models of the Hub for other verbs: each command is a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from densecore.data import builtin_model_path
from densecore.hub.reference import ModelReference
from tests.hub_server import Hub, serving

from .conftest import Outcome, environment, finish, start
from .terminal import Terminal

MODEL = builtin_model_path().read_bytes()
Run = Callable[..., Outcome]


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"o/m/m-Q8_0.gguf": MODEL, "o/m/m-Q2_K.gguf": b"small", "o/big/m-Q8_0.gguf": bytes(30_000_000)}
    with serving(Hub(files)) as served:
        yield served


@pytest.fixture
def variables(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return environment(HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path / "home"), HF_TOKEN="", HF_HUB_OFFLINE="")


@pytest.fixture
def run(variables: dict[str, str]) -> Run:
    return lambda *arguments, **changes: finish(start(*arguments, env=variables | changes))


def test_pull_list_use_and_rm(run: Run, hub: Hub, tmp_path: Path) -> None:
    status, out, err = run("pull", "o/m:q8_0")
    path = Path(out.rstrip("\n"))
    assert status == 0
    assert path.is_relative_to(tmp_path / "home")
    assert path.read_bytes() == MODEL
    assert err.startswith("downloading m-Q8_0.gguf\n")

    (facts,) = json.loads(run("list", "--json").out)
    assert (facts["name"], facts["quantization"], facts["size_bytes"]) == ("o/m:m-Q8_0.gguf", "Q8_0", len(MODEL))
    assert facts["paths"] == [str(path)]
    assert abs(time.time() - path.stat().st_atime) < 100
    assert "o/m:m-Q8_0.gguf  Q8_0" in run("list").out

    offline = run("info", "--json", "--model", "o/m", HF_HUB_OFFLINE="1")
    assert (offline.status, offline.err) == (0, "")
    assert json.loads(offline.out)["name"] == "pystd-6m"

    assert run("rm", "o/m:Q8_0").status == 2  # nobody to ask
    assert path.exists()
    removed = run("rm", "o/m:Q8_0", "--yes")
    assert removed.out == f"deleted o/m:Q8_0, {len(MODEL) / 2**20:.1f} MiB freed\n"
    assert not path.exists()
    assert json.loads(run("list", "--json").out) == []
    assert "offline mode is on" in run("info", "o/m", HF_HUB_OFFLINE="1").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pull", "o/m:Q4_K_M"], "nothing is quantized as Q4_K_M; there is Q2_K, Q8_0"),
        (["pull", "o/none"], "no such repository"),
        (["pull", "nothing"], "does not name a model on the Hub"),
        (["info", "o/none"], "no such repository"),
        (["info", "./o/none.gguf"], "cannot open the model file: No such file"),
        (["rm", "o/m", "--yes"], "nothing of it is in the cache"),
        (["rm", "../..", "--yes"], "does not name a model|nothing of it is in the cache"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], said: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert any(each in err for each in said.split("|")), err
    assert err.startswith("densecore: error: ")
    assert err.count("\n") == 1


def test_ctrl_c_keeps_what_has_come(variables: dict[str, str], hub: Hub, tmp_path: Path) -> None:
    hub.pause_at = 25_000_000
    process = start("pull", "o/big", env=variables)
    deadline = time.monotonic() + 60
    while not (parts := list(tmp_path.rglob("*.incomplete"))) or parts[0].stat().st_size < 10_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, out) == (130, "")
    assert err.endswith("densecore: interrupted\n")
    assert "o/big: " in (notice := finish(start("list", env=variables)).err)
    assert "of unfinished downloads" in notice
    hub.pause_at = 0
    hub.resumed.set()
    done = finish(start("pull", "o/big", env=variables))
    assert done.status == 0
    assert "which goes on from" in done.err
    assert Path(done.out.strip()).stat().st_size == 30_000_000
    assert hub.requests[-1][2] in ("bytes=10000000-", "bytes=20000000-", f"bytes={10 * 2**20}-", f"bytes={20 * 2**20}-")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file size are tried on Linux")
def test_a_disk_without_room(variables: dict[str, str], tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000_000, 15_000_000))

    status, _, err = finish(start("pull", "o/big", "--quiet", env=variables, preexec_fn=limit))
    assert status == 1
    assert "File too large; what has come so far is kept" in err
    assert err.count("\n") == 1
    done = finish(start("pull", "o/big", "--quiet", env=variables))
    assert (done.status, done.err) == (0, "")


def test_rm_asks_on_a_terminal(run: Run, terminal: Callable[..., Terminal], variables: dict[str, str]) -> None:
    path = Path(run("pull", "o/m:Q2_K", "--quiet").out.strip())
    for answer, stays in (("n", True), ("y", False)):
        asked = terminal("rm", "o/m", HF_HOME=variables["HF_HOME"])
        asked.expect("delete? [y/N] ")
        asked.type(answer + "\n")
        assert asked.wait() == (1 if stays else 0)
        assert path.exists() == stays


def test_from_pretrained(variables: dict[str, str], tmp_path: Path) -> None:
    code = (
        "from densecore import DenseCore\n"
        f"with DenseCore.from_pretrained('o/m:Q8_0', cache_dir={str(tmp_path / 'mine')!r}, threads=1,"
        " draft_repo_id='o/m:Q8_0', max_model_len=64) as model:\n"
        "    print(len(model.complete('import', max_tokens=4, temperature=0).token_ids))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
    assert list((tmp_path / "mine").glob("models--o--m"))
    assert not (tmp_path / "home" / "hub").exists()


@pytest.mark.parametrize("text", ["a/b", "a-1/b.c:Q4_K_M", "a/b:c/d.gguf"])
def test_names_on_the_hub(text: str) -> None:
    assert ModelReference.looks_like(text)
    assert str(ModelReference.parse(text)) == text


@pytest.mark.parametrize("text", ["m.gguf", "./a/b", "../a", "/a/b", "a/b/c", "models/m.gguf", "~/m", "a\\b", ""])
def test_paths(text: str) -> None:
    assert not ModelReference.looks_like(text)
