"""docs/CLI.md names what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from densecore.cli.chat import HELP
from densecore.cli.machine_facts import gather
from densecore.cli.options import BUILTIN_SAMPLING
from densecore.cli.parser import VERBS, build_parser, parse
from densecore.config import EngineConfig

from .conftest import Cli

TEXT = (Path(__file__).parents[2] / "docs" / "CLI.md").read_text()
PARSERS = next(iter(build_parser()._subparsers._group_actions)).choices


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_section(verb: str) -> None:
    assert f"\n## {verb}\n" in TEXT


def test_every_flag_is_described_and_exists() -> None:
    known = {flag for parser in PARSERS.values() for flag in parser._option_string_actions} - {"--help", "-h"}
    written = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", TEXT))
    assert {flag for flag in known if flag.startswith("--")} <= written
    assert {flag for flag in written if flag.startswith("--")} - known == {"--help"}


def test_every_command_of_chat_is_described() -> None:
    for command in re.findall(r"^/\w+", HELP, re.M):
        assert f"| `{command}" in TEXT


def test_defaults_of_the_builtin_model() -> None:
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in BUILTIN_SAMPLING.items())
    assert flags in " ".join(TEXT.split())


def commands(name: str) -> list[str]:
    """Each command that a page shows, without what a shell would do with it."""
    text = (Path(__file__).parents[2] / "docs" / name).read_text()
    found = re.findall(r"^(densecore .*)|`(densecore [a-z]+ -[^`]*)`", text, re.M)
    return [re.split(r" [|<>] |\s+\(", line or inline)[0] for line, inline in found]


@pytest.mark.parametrize("command", [*commands("CLI.md"), *commands("NUMA_OPTIMIZATION.md"), *commands("SERVER.md")])
def test_commands_are_understood(command: str) -> None:
    assert parse(shlex.split(command, comments=True)[1:]).verb in VERBS


@pytest.mark.parametrize("command", [c for c in commands("NUMA_OPTIMIZATION.md") if c.startswith("densecore env")])
def test_reports_of_the_page_on_numa(cli: Cli, command: str) -> None:
    assert cli(*shlex.split(command)[1:])[::2] == (0, "")


def test_keys_of_the_report_are_described() -> None:
    section = TEXT.split("\n## env\n")[1].split("\n## ")[0]
    assert re.findall(r"^\|[^|]*\| `(\w+)` \|", section, re.M) == list(gather(EngineConfig()))
