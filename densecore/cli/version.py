"""``densecore version``: versions of what a result depends on."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

import densecore
from densecore.cli.parser import add_verb

__all__ = ["add_parser", "cpu_name", "installed_version", "run"]

EXAMPLES = """\
  densecore version
  densecore version --verbose    also instruction set, threads and cache directory, as kernels see them
"""
PACKAGES = ("numba", "llvmlite", "numpy", "tokenizers", "tbb")


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Show the versions of DenseCore and of what it runs on", EXAMPLES)
    parser.add_argument("-v", "--verbose", action="store_true", help="also what the kernels use")


def run(args: argparse.Namespace) -> int:
    """Print a line an entry; the exit status."""
    facts = {"densecore": densecore.__version__, "python": platform.python_version()}
    facts |= {name: installed_version(name) for name in PACKAGES}
    facts |= {"system": f"{platform.system()} {platform.release()} {platform.machine()}", "cpu": cpu_name()}
    if args.verbose:
        facts |= _kernel_facts()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


def installed_version(package: str) -> str:
    """From the package's metadata, without importing it."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU as its maker calls it, where the system tells."""
    try:
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "cpu model", "hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _kernel_facts() -> dict[str, str]:
    from densecore.data import builtin_model_path
    from densecore.kernels import simd, threads
    from densecore.kernels.cache import cache_directory

    return {
        "executable": sys.executable,
        "instructions": simd.ISA,
        "threads": f"{threads.default_thread_count()} by default",
        "threading": threads.start_threading_layer(),
        "kernel cache": str(cache_directory() or "off"),
        "built-in model": str(builtin_model_path()),
    }
