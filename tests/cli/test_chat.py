"""``densecore chat``: commands with a model that is played, then the real thing in pipes and on a terminal."""

from __future__ import annotations

import importlib.util
import io
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from densecore.cli.chat import Chat
from densecore.cli.conversation import Conversation
from densecore.cli.output import TextOutput
from densecore.cli.session import CompileNotice, Session
from densecore.config import GenerationConfig
from densecore.exceptions import InvalidConfigError
from tests.gguf_factory import gpt2_vocabulary, make_model

from .conftest import Cli, finish, start
from .terminal import Terminal


class FakeStream:
    """Yields words; an exception among them is raised."""

    def __init__(self, words: list[Any], finish_reason: str) -> None:
        self._words = iter(words)
        usage = SimpleNamespace(prompt_tokens=5, completion_tokens=len(words))
        timings = SimpleNamespace(prompt_tokens_per_second=1.0, tokens_per_second=2.0, time_to_first_token=3.0)
        self.result = SimpleNamespace(finish_reason=finish_reason, usage=usage, timings=timings)

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        word = next(self._words)
        if isinstance(word, BaseException):
            raise word
        return word


class FakeModel:
    """Answers with what `answers` hold, and remembers what it was asked."""

    max_model_len = 100

    def __init__(self, template: str | None = "some template") -> None:
        self.tokenizer = SimpleNamespace(chat_template=template)
        self.answers: list[Any] = []
        self.asked: list[list[dict[str, str]]] = []
        self.options: list[dict[str, Any]] = []
        self.finish_reason = "stop"

    def stream_chat(self, messages: list[dict[str, str]], **options: Any) -> FakeStream:
        self.asked.append([dict(message) for message in messages])
        self.options.append(options)
        answer = self.answers.pop(0) if self.answers else ["an", " answer"]
        if isinstance(answer, Exception):
            raise answer
        return FakeStream(answer, self.finish_reason)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def answers() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def chat(model: FakeModel, answers: io.StringIO) -> Chat:
    session = Session(model, CompileNotice(None))  # type: ignore[arg-type]
    return Chat(session, Conversation(GenerationConfig()), TextOutput(answers), interactive=True, verbose=False)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_the_whole_conversation_reaches_the_model(chat: Chat, model: FakeModel, answers: io.StringIO) -> None:
    chat.take("/system Be brief.")
    chat.take("one")
    chat.take("two")
    system = {"role": "system", "content": "Be brief."}
    assert model.asked == [[system, user("one")], [system, user("one"), assistant("an answer"), user("two")]]
    assert answers.getvalue() == "an answer\nan answer\n"


def test_clear_keeps_the_system_message(chat: Chat, model: FakeModel) -> None:
    for text in ("/system S", "one", "/clear", "two", "/system", "three"):
        chat.take(text)
    assert model.asked[1] == [{"role": "system", "content": "S"}, user("two")]
    assert model.asked[2][0] == user("two")


def test_regenerate_asks_the_same_again(chat: Chat, model: FakeModel) -> None:
    model.answers = [["first"], ["second"]]
    for text in ("question", "/regenerate", "next"):
        chat.take(text)
    assert model.asked == [[user("question")]] * 2 + [[user("question"), assistant("second"), user("next")]]


def test_control_c_keeps_what_was_said(chat: Chat, model: FakeModel, capsys) -> None:
    model.answers = [["half an", " ans", KeyboardInterrupt()]]
    chat.take("question")
    chat.take("go on")
    assert model.asked[1] == [user("question"), assistant("half an ans"), user("go on")]
    assert "[stopped]" in capsys.readouterr().err


@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), InvalidConfigError("the prompt has 200 tokens")])
def test_a_turn_without_an_answer_leaves_no_trace(chat: Chat, model: FakeModel, trouble: BaseException) -> None:
    model.answers = [[trouble]]
    chat.take("lost")
    chat.take("kept")
    assert model.asked[1] == [user("kept")]


def test_full_context_advises_clear(chat: Chat, model: FakeModel, capsys) -> None:
    model.answers = [InvalidConfigError("the prompt has 200 tokens, and the context is 100")]
    chat.take("long")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "200 tokens" in err
    assert "/clear" in err


@pytest.mark.parametrize(("max_tokens", "said"), [(2, "/set max_tokens"), (50, "the context of 100 tokens is full")])
def test_cut_off_answers_are_explained(chat: Chat, model: FakeModel, capsys, max_tokens: int, said: str) -> None:
    model.finish_reason = "length"
    chat.take(f"/set max_tokens {max_tokens}")
    chat.take("question")
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("/set temperature 0.25", "temperature", 0.25),
        ("/set top-k 7", "top_k", 7),
        ("/set seed none", "seed", None),
        ('/set stop_sequences ["a", "b c"]', "stop_sequences", ("a", "b c")),
        ("/set stop_sequences END", "stop_sequences", ("END",)),
        ('/set logit_bias {"5": -3}', "logit_bias", {5: -3.0}),
    ],
)
def test_set(chat: Chat, model: FakeModel, command: str, name: str, value: Any) -> None:
    chat.take(command)
    chat.take("question")
    assert getattr(model.options[0]["config"], name) == value


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/set temperature hot", "temperature must be"),
        ("/set temperature", "needs a name and a value"),
        ("/set warmth 3", "unknown setting 'warmth'"),
        ("/hepl", "did you mean /help?"),
        ("/xyzzy", "/help lists commands"),
        ("/regenerate", "no message"),
        ("/save", "needs the name"),
        ("/save /no/such/directory/x.json", "No such file"),
    ],
)
def test_mistakes_are_one_line(chat: Chat, model: FakeModel, capsys, command: str, said: str) -> None:
    chat.take(command)
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert model.asked == []


def test_set_alone_lists_everything(chat: Chat, capsys) -> None:
    chat.take("/set")
    err = capsys.readouterr().err
    assert all(name in err for name in GenerationConfig.names())


def test_slashes_in_messages(chat: Chat, model: FakeModel) -> None:
    chat.take("/usr/bin/env is a path")
    chat.take("//help is sent with one slash")
    assert [asked[-1]["content"] for asked in model.asked] == ["/usr/bin/env is a path", "/help is sent with one slash"]


def test_save_never_overwrites(chat: Chat, tmp_path: Path, capsys) -> None:
    chat.take("question")
    chat.take(f"/save {tmp_path}/talk.json")
    assert json.loads((tmp_path / "talk.json").read_text()) == [user("question"), assistant("an answer")]
    capsys.readouterr()
    chat.take(f"/save {tmp_path}/talk.json")
    assert "exists" in capsys.readouterr().err


def test_without_a_template_chatml_is_named_once(capsys) -> None:
    model = FakeModel(template=None)
    session = Session(model, CompileNotice(None))
    chat = Chat(session, Conversation(GenerationConfig()), TextOutput(None), interactive=False, verbose=True)
    chat.greet()
    chat.take("question")
    err = capsys.readouterr().err
    assert err.count("ChatML") == 1
    assert "[prompt 5 tokens" in err


def test_quit(chat: Chat) -> None:
    chat.take("/quit")
    assert not chat.is_open


# ---------------------------------------------------------------------- with a model, through a pipe

SHORT = ("--temperature", "0", "-n", "6")


@pytest.fixture(scope="module")
def chatty_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with a template, a long context, and nothing that ends a reply but a token ruled out."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    vocab = gpt2_vocabulary() | {"tokenizer.chat_template": template}
    return make_model(tmp_path_factory.mktemp("models") / "chatty.gguf", vocab=vocab, max_len=30000)


def test_each_line_of_a_pipe_is_a_message(cli: Cli, tmp_path: Path) -> None:
    lines = f'Hello\n\n/set max_tokens 3\n"""two\nlines"""\n/save {tmp_path}/talk.json\n'
    status, out, err = cli("chat", *SHORT, stdin=lines)
    assert status == 0, err
    assert "no chat template" in err
    talk = json.loads((tmp_path / "talk.json").read_text())
    assert [turn["role"] for turn in talk] == ["user", "assistant", "user", "assistant"]
    assert talk[2]["content"] == "two\nlines"
    answers = [talk[1]["content"], talk[3]["content"]]
    assert out == "".join(text if text.endswith("\n") else text + "\n" for text in answers)


@pytest.mark.parametrize(
    ("stdin", "said"),
    [(b"/nonsense\nHello\n", "unknown command"), (b"\xff\n", "not UTF-8"), (b"word " * 600, "/clear")],
    ids=["unknown command", "not UTF-8", "too long"],
)
def test_the_first_error_in_a_pipe_ends_the_chat(cli: Cli, stdin: bytes, said: str) -> None:
    status, out, err = cli("chat", *SHORT, stdin=stdin)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("densecore: error: ")
    assert said in err


def test_same_answer_as_the_sdk(cli: Cli, chatty_model: Path) -> None:
    from densecore import DenseCore

    with DenseCore(chatty_model) as model:
        expected = model.chat([{"role": "system", "content": "S"}, user("Hi")], max_tokens=6, temperature=0.0)
    status, out, err = cli("chat", "-m", chatty_model, "--system", "S", *SHORT, stdin="Hi\n")
    assert status == 0
    assert out.rstrip("\n") == expected.rstrip("\n")
    assert "template" not in err


def test_as_a_process_in_a_pipe(chatty_model: Path) -> None:
    process = start("chat", "-m", chatty_model, *SHORT, stdin=-1)
    status, out, err = finish(process, stdin=b"Hello\n/quit\nnever seen\n")
    assert status == 0
    assert out
    assert "error" not in err


# ---------------------------------------------------------------------- on a terminal


ENDLESS = ("-n", "29000", "--temperature", "1", "--seed", "1")


def test_a_talk_on_a_terminal(terminal: Callable[..., Terminal], chatty_model: Path, tmp_path: Path) -> None:
    ends = ("--logit-bias", "262=-100", "--logit-bias", "264=-100")  # <|endoftext|>, <|im_end|>
    shown = terminal("chat", "-m", chatty_model, *ENDLESS, *ends)
    shown.expect("/help lists commands")
    shown.expect("> ")
    shown.type("/help\n")
    shown.expect("/regenerate")
    shown.type("/set temperature 0.5\n")
    shown.expect("[temperature = 0.5]")
    shown.expect("> ")
    shown.press_control_c_at_prompt("(Ctrl-D or /quit leaves)")

    shown.type("/set max_tokens 4\n")
    shown.type("Hello\n")
    shown.expect("[cut off after 4 tokens")  # from now on nothing needs compiling
    shown.type("/set max_tokens 29000\n")
    shown.expect("[max_tokens = 29000]")
    shown.expect("> ")
    shown.type("Tell me everything\n")
    shown.expect("Tell me everything")  # perhaps twice: a terminal shows what is typed before the prompt is ready, too
    while len(shown.screen) - shown._seen < 150:  # the answer has begun, and will not end by itself
        assert shown._read(60)
    shown.press_control_c()
    shown.expect("[stopped]", timeout=10)
    shown.type(f"/save {tmp_path}/talk.json\n")
    shown.expect("[saved to ")
    talk = json.loads((tmp_path / "talk.json").read_text())
    assert [turn["role"] for turn in talk] == ["user", "assistant"] * 2
    assert len(talk[3]["content"]) > 50

    shown.expect("> ")
    assert shown.leave_by_control_d() == 0
    assert "Traceback" not in shown.screen
    assert_history_is_private(tmp_path / "state" / "densecore", "Tell me everything")


def assert_history_is_private(directory: Path, line: str) -> None:
    (file,) = directory.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert line in file.read_text()


def test_errors_do_not_end_a_talk_on_a_terminal(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("chat", *SHORT, "--no-history")
    shown.expect("ChatML")
    shown.expect("> ")
    shown.type("word " * 400 + "\n")
    shown.expect("/clear forgets")
    shown.expect("> ")
    shown.type("/quit\n")
    assert shown.wait() == 0


@pytest.mark.skipif(importlib.util.find_spec("prompt_toolkit") is None, reason="the extra [cli] is not installed")
def test_prompt_toolkit_is_used_where_installed(
    terminal: Callable[..., Terminal], chatty_model: Path, tmp_path: Path
) -> None:
    shown = terminal("chat", "-m", chatty_model)
    shown.expect("> ")
    shown.type("/quit\n")
    assert shown.wait() == 0
    assert (tmp_path / "state" / "densecore" / "chat_history.prompt_toolkit").exists()
