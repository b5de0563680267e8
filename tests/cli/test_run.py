"""``densecore run``, in this process and as a process."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from densecore import DenseCore
from densecore.cli.options import BUILTIN_SAMPLING
from densecore.cli.parser import parse
from densecore.data import builtin_model_path
from tests.gguf.broken_cases import CASES

from .conftest import Cli, environment, finish, start
from .terminal import Terminal

GREEDY = ("--temperature", "0", "-n", "8")
ENDLESS = ("-n", "29000", "--temperature", "1", "--seed", "1", "--logit-bias", "1=-100")


@pytest.fixture(scope="module")
def builtin() -> Iterator[DenseCore]:
    with DenseCore(builtin_model_path()) as model:
        yield model


def greedy_text(model: DenseCore, prompt: str) -> str:
    settings = BUILTIN_SAMPLING | {"temperature": 0.0, "max_tokens": 8}
    return model.generate(prompt, **settings)


@pytest.mark.parametrize(
    "flags", [("--speculate",), ("--draft-model", str(builtin_model_path()))], ids=["lookup", "draft"]
)
def test_speculation_prints_the_same(cli: Cli, builtin: DenseCore, flags: tuple[str, ...]) -> None:
    status, out, _ = cli("run", "import os", *GREEDY, *flags, "--num-speculative-tokens", "2", "--no-echo")
    assert (status, out.rstrip("\n")) == (0, greedy_text(builtin, "import os").rstrip("\n"))


def test_prints_what_the_sdk_generates(cli: Cli, builtin: DenseCore) -> None:
    status, out, err = cli("run", "import os", *GREEDY)
    assert status == 0
    assert out == greedy_text(builtin, "import os") + "\n"
    assert re.fullmatch(
        r"\[prompt \d+ tokens, [\d.]+ tokens/s \| generated 8 tokens, [\d.]+ tokens/s \| first token after [\d.]+ s "
        r"\| ended by length\]\n",
        err.removeprefix("compiling kernels (first run on this CPU)…\n"),
    )


def test_echo_and_quiet(cli: Cli, builtin: DenseCore) -> None:
    status, out, err = cli("run", "import os", "--echo", "--quiet", *GREEDY)
    assert (status, err) == (0, "")
    assert out == "import os" + greedy_text(builtin, "import os") + "\n"


@pytest.mark.parametrize("argument", [[], ["-"]], ids=["no prompt", "dash"])
def test_prompt_from_a_pipe_without_its_last_line_break(cli: Cli, builtin: DenseCore, argument: list[str]) -> None:
    status, out, _ = cli("run", *argument, *GREEDY, stdin="import re\nimport os\n")
    assert (status, out) == (0, greedy_text(builtin, "import re\nimport os") + "\n")


def test_an_empty_prompt_begins_a_text_but_an_empty_pipe_is_a_mistake(cli: Cli, builtin: DenseCore) -> None:
    assert cli("run", "", *GREEDY)[:2] == (0, greedy_text(builtin, "") + "\n")
    status, out, err = cli("run", stdin="")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "no prompt" in err


def test_seed_repeats(cli: Cli) -> None:
    first, second, other = (cli("run", "def f(", "-n", "12", "--seed", seed).out for seed in (5, 5, 6))
    assert first == second != other


def test_stop_ends_the_text(cli: Cli, builtin: DenseCore) -> None:
    text = greedy_text(builtin, "import os")
    stop = text.strip()[1:3]
    out = cli("run", "import os", *GREEDY, "--stop", "unlikely text", "--stop", stop).out
    assert out.rstrip("\n") == text[: text.index(stop)].rstrip("\n")


def test_logit_bias_rules_tokens_out(cli: Cli, builtin: DenseCore) -> None:
    first = builtin.complete("import os", max_tokens=1, temperature=0.0).token_ids[0]
    out = cli("run", "import os", *GREEDY, "--logit-bias", f"{first}=-100", "--logit-bias", "0=-50").out
    assert out != greedy_text(builtin, "import os") + "\n"


def test_structured_output(cli: Cli, builtin: DenseCore, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "digits.gbnf"
    schema.write_text('{"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "maxItems": 4}')
    grammar.write_text('root ::= "v" [0-9]{2,3} "\\n"\n')
    (closing,) = builtin.tokenize("}")  # as soon as it may come, so that the text ends before its limit
    assert isinstance(json.loads(cli("run", "x = ", "--json", "--logit-bias", f"{closing}=100").out), dict)
    assert set(json.loads(cli("run", "x = ", "--json-schema", schema, "--seed", "1").out)) <= set(range(1, 10))
    assert re.fullmatch("[ab]{5}\n", cli("run", "x = ", "--regex", "[ab]{5}").out)
    assert cli("run", "x = ", "--choice", "yes", "--choice", "no").out in ("yes\n", "no\n")
    assert re.fullmatch("v[0-9]{2,3}\n", cli("run", "x = ", "--grammar", grammar).out)


def test_bad_words_and_no_end(cli: Cli, builtin: DenseCore) -> None:
    first = builtin.complete("import os", max_tokens=1, temperature=0.0).text
    out = cli("run", "import os", *GREEDY, "--bad-word", first, "--ignore-eos", "--min-tokens", "3").out
    assert not out.startswith(first)


def test_defaults_of_the_builtin_model_hold_for_it_alone(cli: Cli) -> None:
    from densecore.cli.options import generation_config

    args = parse(["run", "x", "--temperature", "0.25"])
    config = generation_config(args, **BUILTIN_SAMPLING)
    assert config.temperature == 0.25
    assert config.max_tokens == BUILTIN_SAMPLING["max_tokens"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["-m", "/does/not/exist.gguf", "x"], "", "/does/not/exist.gguf"),
        (["-m", "{tmp}", "x"], "", "directory"),
        (["-m", "{tmp}/text.gguf", "x"], "", "magic"),
        (["-m", "{tmp}/short.gguf", "x"], "", "short.gguf"),
        ([], b"\xff\xfe", "standard input is not UTF-8"),
        (["x" * 3000], "", "context"),
        (["x", "--regex", "("], "", "regex cannot be used"),
        (["x", "--logit-bias", "99999=1"], "", "99999"),
        (["x", "--ctx-size", "100000"], "", "256"),
        (["x", "-n", "200", "--timeout", "0.000001"], "", "increase timeout"),
    ],
    ids=[
        "no such file", "directory", "not GGUF", "truncated", "not UTF-8", "too long", "wrong regex",
        "bias of an unknown token", "context too long", "timeout",
    ],
)  # fmt: skip
def test_errors_are_one_line_and_status_1(
    cli: Cli, tmp_path: Path, arguments: list[str], stdin: str | bytes, said: str
) -> None:
    (tmp_path / "text.gguf").write_text("no model at all")
    (tmp_path / "short.gguf").write_bytes(builtin_model_path().read_bytes()[:100_000])
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    status, out, err = cli("run", *arguments, "-q", stdin=stdin)
    assert (status, out) == (1, "")
    assert err.startswith("densecore: error: ")
    assert err.count("\n") == 1
    assert said in err


def test_as_a_process_offline() -> None:
    """Nothing is downloaded: there is no way out."""
    offline = environment(HF_HUB_OFFLINE="1", http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    status, out, err = finish(start("run", "import os", *GREEDY, env=offline))
    assert status == 0
    assert out.strip()
    assert "generated 8 tokens" in err


def test_control_c_ends_at_once(endless_model: Path) -> None:
    process = start("run", "-m", endless_model, "the cat", *ENDLESS)
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert len(out) < 20_000  # of some 29,000 tokens
    assert status == 130
    assert err.endswith("densecore: interrupted\n")


def test_control_c_while_kernels_are_compiled(tmp_path: Path) -> None:
    process = start("run", "x", env=environment(DENSECORE_CACHE_DIR=str(tmp_path / "cache")))
    line = process.stderr.readline()
    assert b"compiling kernels" in line
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert len(list(tmp_path.rglob("*.kernel"))) < 10  # of some 20: what was being compiled may be finished, no more
    assert (status, err) == (130, "densecore: interrupted\n")


def test_a_reader_that_goes_away_ends_it_silently(endless_model: Path) -> None:
    process = start("run", "-m", endless_model, "the cat", *ENDLESS)
    assert process.stdout.read(10)
    process.stdout.close()
    process.stdout = None
    assert finish(process) == (141, "", "")


def test_full_disk_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        status, _, err = finish(start("run", "import os", *GREEDY, "-q", stdout=full))
    assert (status, err) == (1, "densecore: error: No space left on device\n")


def test_on_a_terminal_the_prompt_is_continued(terminal: Callable[..., Terminal], builtin: DenseCore) -> None:
    shown = terminal("run", "import os", *GREEDY)
    assert shown.wait(120) == 0
    text = ("import os" + greedy_text(builtin, "import os")).replace("\n", "\r\n")
    assert text in shown.screen
    assert "[prompt " in shown.screen.split(text)[1]


@pytest.mark.parametrize("verb", [["run", "x", "-m"], ["info"], ["tokenize", "x", "-m"]], ids=lambda verb: verb[0])
def test_broken_files_are_one_line(cli: Cli, tmp_path: Path, verb: list[str]) -> None:
    path = tmp_path / "broken.gguf"
    for name in list(CASES)[::10]:
        path.write_bytes(CASES[name].content)
        status, out, err = cli(*verb, path)
        assert (status, out) == (1, ""), name
        assert err.startswith(f"densecore: error: {path}"), name
        assert err.count("\n") == 1, name
