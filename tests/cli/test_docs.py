"""docs/CLI.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from densecore.cli.chat import HELP
from densecore.cli.options import BUILTIN_SAMPLING
from densecore.cli.parser import VERBS, build_parser

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
