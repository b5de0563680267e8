"""Where the shared library of this Python is: the one that a C program has to load."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["shared_libpython"]

SHARED = (".so", ".dylib")


def shared_libpython() -> Path | None:
    """The shared library of the running Python; None where it was built without one and none is beside it."""
    return next((path for path in _candidates() if path.is_file()), None)


def _candidates() -> Iterator[Path]:
    names = [name for name in map(_variable, ("INSTSONAME", "LDLIBRARY")) if any(end in name for end in SHARED)]
    library, multiarch = _variable("LIBDIR"), _variable("MULTIARCH")
    for folder in (Path(library), Path(library, multiarch), Path(sys.base_prefix, "lib"), Path(sys.base_prefix)):
        for name in names:
            yield folder / name


def _variable(name: str) -> str:
    return str(sysconfig.get_config_var(name) or "")
