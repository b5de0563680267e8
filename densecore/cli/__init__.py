"""The command ``densecore``.

One module a verb, each with the same skeleton: ``add_parser(verbs)`` declares the arguments, ``run(args)`` does the
work and returns the exit status. What computes is imported inside ``run``, so that ``--help`` answers at once.

Exit status: 0 done; 1 an error, told in one line on stderr; 2 wrong usage; 130 interrupted (Ctrl-C); 141 the reader
of the output went away. ``DENSECORE_DEBUG=1`` shows tracebacks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv` (None: those of this process) and return the exit status."""
    try:
        from densecore.cli.failures import guarded
        from densecore.cli.parser import parse

        status = guarded(lambda: _dispatch(parse(sys.argv[1:] if argv is None else argv)))
    except KeyboardInterrupt:  # so early that there is nothing to tidy up
        status = INTERRUPTED
    if argv is None and status == INTERRUPTED:
        # Kernels may be running or compiling in the kernel thread for seconds yet: do not wait for them. Nothing is
        # lost, as files are written whole or not at all.
        os._exit(status)
    return status


def _dispatch(args) -> int:
    return args.run(args)
