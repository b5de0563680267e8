"""``densecore capi``: what a program in C or C++ is compiled and linked with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from densecore.cli.parser import add_verb, wrong_usage

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  cc chat.c $(densecore capi --cflags --libs)    the library is built when it is first asked for
  densecore capi --build DIR                     library, header and pkg-config file in a folder of your own
  PKG_CONFIG_PATH=DIR pkg-config --libs densecore
  cp "$(densecore capi --source)" src/           or compile its one file into your program

CC names the compiler (default cc). docs/API_REFERENCE.md describes the functions.
"""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Build the library for C and C++, or print flags to use it", EXAMPLES)
    parser.add_argument(
        "--build", type=Path, metavar="DIR", help="make libdensecore.so, densecore.h, densecore.pc in DIR"
    )
    parser.add_argument("--cflags", action="store_true", help="print arguments for the compiler")
    parser.add_argument("--libs", action="store_true", help="print arguments for the linker")
    parser.add_argument("--source", action="store_true", help="print the path of densecore.c")


def run(args: argparse.Namespace) -> int:
    """Build and print; the exit status."""
    from densecore.capi import build

    if not (args.build or args.cflags or args.libs or args.source):
        wrong_usage(args, "give --build DIR, --cflags, --libs or --source")
    directory = args.build.expanduser().absolute() if args.build else None
    made = build.build(directory) if directory else []
    flags = [build.cflags(directory or build.FOLDER)] if args.cflags else []
    if args.libs:
        flags.append(build.libs(directory or build.build_once()))
    if args.source:
        flags.append(str(build.SOURCE))
    print(" ".join(flags) if flags else "\n".join(map(str, made)))
    return 0
