"""Fixtures of the tests of the compile cache."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from densecore.kernels import cache_directory, cache_key

from .demo_kernels import DEMO, HELPER


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """An empty cache beneath tmp_path; calling it forgets what the process has found out about the cache."""

    def forget() -> None:
        cache_directory.cache_directory.cache_clear()
        cache_key.directory_key.cache_clear()
        monkeypatch.setattr(cache_directory, "_has_warned", False)

    monkeypatch.delenv("DENSECORE_CACHE", raising=False)
    monkeypatch.setenv("DENSECORE_CACHE_DIR", str(tmp_path / "cache"))
    forget()
    yield forget
    forget()


@pytest.fixture
def demo(fresh_cache: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The demo kernels as a package of their own that the cache takes for the kernels' package."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "cache_test_helper.py").write_text(HELPER)
    (package / "cache_test_demo.py").write_text(DEMO.format(helper="cache_test_helper"))
    monkeypatch.syspath_prepend(package)
    monkeypatch.setattr(cache_key, "PACKAGE", package)
    yield importlib.import_module("cache_test_demo")
    for name in ("cache_test_demo", "cache_test_helper"):
        sys.modules.pop(name, None)
