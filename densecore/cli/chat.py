"""``densecore chat``: talk to a model."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from typing import Any

from densecore.cli.conversation import Conversation
from densecore.cli.failures import one_line, say
from densecore.cli.message_input import open_lines, read_message
from densecore.cli.options import (
    add_engine_arguments,
    add_lora_argument,
    add_model_argument,
    add_sampling_arguments,
    add_speculation_arguments,
    generation_config,
)
from densecore.cli.output import TextOutput
from densecore.cli.parser import add_verb
from densecore.cli.run import figures
from densecore.cli.session import Session, open_session
from densecore.exceptions import DenseCoreError, InvalidConfigError

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore chat -m qwen2.5-0.5b-instruct-q8_0.gguf
  densecore chat -m model.gguf --system "Answer in one sentence." --temperature 0.3
  echo "What is a prime number?" | densecore chat -m model.gguf

Type /help for commands. Ctrl-C stops an answer, Ctrl-D leaves. From a pipe, each line is a message (or several
lines, see /help), and the first error ends the chat. Answers go to stdout, everything else to stderr.
"""
HELP = '''\
/clear            forget the conversation, keep the system message
/regenerate       answer the last message again
/system [TEXT]    change the system message; without TEXT, remove it
/set [NAME VALUE] change a sampling setting, such as /set temperature 0.2; without arguments, show all
/save FILE        write the conversation to a new file, as JSON
/help             show this
/quit             leave (also Ctrl-D)
A message of several lines: end lines with \\, or put """ before and after it. A message that begins with a slash
and a word needs a second slash: //word.'''
MAX_TOKENS = 2048  # an answer should rarely be cut off


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Talk to a model", EXAMPLES)
    add_model_argument(parser)
    add_lora_argument(parser)
    parser.add_argument("--system", metavar="TEXT", help="system message: how the model should behave")
    parser.add_argument("-v", "--verbose", action="store_true", help="show figures after each answer")
    parser.add_argument("--no-history", action="store_true", help="do not keep what was typed for the next chat")
    add_sampling_arguments(parser, max_tokens=MAX_TOKENS)
    add_engine_arguments(parser)
    add_speculation_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read messages and answer them until the input ends; the exit status."""
    conversation = Conversation(generation_config(args, max_tokens=MAX_TOKENS), args.system)
    interactive = sys.stdin is not None and sys.stdin.isatty()
    with open_session(args) as session:
        chat = Chat(session, conversation, TextOutput(sys.stdout), interactive=interactive, verbose=args.verbose)
        chat.greet()
        with open_lines(interactive=interactive, keep_history=not args.no_history) as read_line:
            while chat.is_open:
                try:
                    chat.take(read_message(read_line))
                except EOFError:
                    break
                except KeyboardInterrupt:
                    if not interactive:
                        raise
                    say("(Ctrl-D or /quit leaves)", fresh_line=True)
    return 0


class Chat:
    """Carries out what the user types: commands, and messages for the model."""

    def __init__(
        self, session: Session, conversation: Conversation, output: TextOutput, *, interactive: bool, verbose: bool
    ) -> None:
        self._session, self._conversation, self._output = session, conversation, output
        self._interactive, self._verbose = interactive, verbose
        self._without_template = session.model.tokenizer.chat_template is None
        self.is_open = True

    def greet(self) -> None:
        """Say what needs to be known before the first message."""
        if self._without_template:
            say("densecore: this model has no chat template and was probably not trained to chat; ChatML is used")
        if self._interactive:
            say("/help lists commands, Ctrl-D leaves")

    def take(self, text: str) -> None:
        """One message or command. Without a terminal, errors are raised."""
        command = re.fullmatch(r"/(\w+)(?:\s+(.*))?", text.strip(), re.DOTALL)
        try:
            if command:
                self._command(command[1], (command[2] or "").strip())
            elif text.strip():
                self._conversation.add("user", text[1:] if text.startswith("//") else text)
                self._answer()
        except (DenseCoreError, OSError) as error:
            if not self._interactive or isinstance(error, BrokenPipeError):
                raise
            say(f"error: {one_line(error)}", fresh_line=self._output.in_line)

    # ------------------------------------------------------------------ the model's turn

    def _answer(self) -> None:
        """Show the answer to the conversation, and add it. A turn that fails, or gives nothing, leaves no trace."""
        parts: list[str] = []
        try:
            self._stream(parts)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            say("[stopped]", fresh_line=True)
        except InvalidConfigError as error:
            raise InvalidConfigError(f"{error} (/clear forgets the conversation)") from error
        finally:
            if parts:
                self._conversation.add("assistant", "".join(parts))
            else:
                self._conversation.drop_last("user")

    def _stream(self, parts: list[str]) -> None:
        conversation, model = self._conversation, self._session.model
        stream = model.stream_chat(conversation.messages, config=conversation.config)
        for text in self._session.texts(stream):
            parts.append(text)
            self._output.write(text)
        self._output.end_line()
        assert stream.result is not None
        if self._verbose:
            say(figures(stream.result))
        if stream.result.finish_reason == "length":
            self._explain_cut(stream.result.usage.completion_tokens)

    def _explain_cut(self, num_tokens: int) -> None:
        if num_tokens >= self._conversation.config.max_tokens:
            say(f"[cut off after {num_tokens} tokens: see /set max_tokens]")
        else:
            say(f"[cut off: the context of {self._session.model.max_model_len} tokens is full, see /clear]")

    # ------------------------------------------------------------------ commands

    def _command(self, name: str, argument: str) -> None:
        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: say(HELP),
            "clear": self._clear,
            "regenerate": self._regenerate,
            "system": self._system,
            "set": self._set,
            "save": self._save,
            "quit": self._quit,
            "exit": self._quit,
        }
        if name not in commands:
            near = difflib.get_close_matches(name, commands, 1)
            hint = f"did you mean /{near[0]}?" if near else "/help lists commands"
            raise InvalidConfigError(f"unknown command /{name}; {hint}")
        commands[name](argument)

    def _clear(self, argument: str) -> None:
        self._conversation.turns.clear()
        say("[conversation forgotten]")

    def _regenerate(self, argument: str) -> None:
        self._conversation.drop_last("assistant")
        if not self._conversation.turns:
            raise InvalidConfigError("there is no message to answer yet")
        self._answer()

    def _system(self, argument: str) -> None:
        self._conversation.system = argument or None
        say("[system message set]" if argument else "[no system message]")

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if not name:
            for known, current in self._conversation.settings().items():
                say(f"{known:<22}{current}")
        elif not value.strip():
            raise InvalidConfigError("/set needs a name and a value, such as /set temperature 0.2")
        else:
            say(f"[{name} = {self._conversation.set(name, value.strip())!r}]")

    def _save(self, argument: str) -> None:
        if not argument:
            raise InvalidConfigError("/save needs the name of a new file")
        say(f"[saved to {self._conversation.save(argument)}]")

    def _quit(self, argument: str) -> None:
        self.is_open = False
