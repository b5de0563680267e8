"""Making ``libdensecore.so`` with the user's compiler, and the flags that a program needs to use it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import densecore
from densecore.capi.libpython import shared_libpython
from densecore.exceptions import DenseCoreError

__all__ = ["HEADER", "SOURCE", "build", "build_once", "cflags", "libs"]

FOLDER = Path(__file__).parent
HEADER, SOURCE = FOLDER / "densecore.h", FOLDER / "densecore.c"
LIBRARY = "libdensecore.so"

PKG_CONFIG = """\
prefix={directory}

Name: densecore
Description: Large language models on CPUs
Version: {version}
Cflags: "-I${{prefix}}"
Libs: "-L${{prefix}}" -ldensecore "-Wl,-rpath,${{prefix}}"
"""


def build(directory: Path) -> list[Path]:
    """Put library, header and pkg-config file into a folder, which is made where it is missing; their paths.

    The library remembers the Python that runs this. It is compiled by ``$CC``, by default ``cc``.

    Raises
    ------
    DenseCoreError
        There is no compiler, it fails, or the folder cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            made = _compile(Path(scratch) / LIBRARY)
            made.replace(directory / LIBRARY)  # programs that have the old one open keep it
        shutil.copy(HEADER, directory)
        facts = {"directory": directory.absolute(), "version": densecore.__version__}
        (directory / "densecore.pc").write_text(PKG_CONFIG.format(**facts), encoding="utf-8")
    except OSError as error:
        raise DenseCoreError(f"{directory} cannot be written: {error.strerror or error}") from None
    return [directory / name for name in (LIBRARY, HEADER.name, "densecore.pc")]


def build_once() -> Path:
    """A folder of the user's cache with what `build` makes, which is made at the first call of each version."""
    key = hashlib.sha256(SOURCE.read_bytes() + HEADER.read_bytes() + "\n".join(_definitions()).encode()).hexdigest()
    directory = _cache_root() / "capi" / key[:16]
    if not (directory / "densecore.pc").is_file():  # it is written last
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        build(directory)
    return directory


def cflags(directory: Path = FOLDER) -> str:
    """Arguments for the compiler: where the header is."""
    return f"-I{shlex.quote(str(directory))}"


def libs(directory: Path) -> str:
    """Arguments for the linker: a library of `build`, which the program finds again when it runs."""
    folder = shlex.quote(str(directory))
    return f"-L{folder} -ldensecore -Wl,-rpath,{folder}"


def _compile(target: Path) -> Path:
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    command = [*compiler, "-std=c99", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", *_definitions(), str(SOURCE)]
    command += ["-o", str(target), "-pthread", "-ldl"]
    if sys.platform.startswith("linux"):
        # Never unloaded, as Python is not: its threads go on.
        command += [f"-Wl,-soname,{LIBRARY}", "-Wl,-z,nodelete"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DenseCoreError(
            f"the C compiler {compiler[0]} cannot be run ({error.strerror}): install one (gcc or clang), or name yours "
            "in the environment variable CC"
        ) from None
    if done.returncode:
        raise DenseCoreError(f"{shlex.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return target


def _definitions() -> list[str]:
    """What densecore.c is to know of this Python, as string literals of C."""
    paths = {"DENSECORE_PYTHON": sys.executable, "DENSECORE_LIBPYTHON": shared_libpython() or ""}
    return [f"-D{name}={json.dumps(str(path), ensure_ascii=False)}" for name, path in paths.items()]


def _cache_root() -> Path:
    """As that of compiled kernels, see ``kernels/cache_directory.py``."""
    if configured := os.environ.get("DENSECORE_CACHE_DIR"):
        return Path(configured).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "densecore"
