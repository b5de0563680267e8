"""The compile cache between processes: later ones, simultaneous ones, ones that cannot write or do not compile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from densecore.kernels import cache

from .demo_kernels import DEMO, HELPER

SOURCES = Path(cache.__file__).parent


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the machinery with the demo kernels in it, as densecore.kernels for new processes."""
    kernels = tmp_path / "path" / "densecore" / "kernels"
    kernels.mkdir(parents=True)
    (kernels.parent / "__init__.py").touch()
    for name in ["__init__", "cache", "cache_key", "cache_directory", "kernel_cache", "progress"]:
        shutil.copy(SOURCES / f"{name}.py", kernels)
    for name in ["threading_layer", "cpu_limits", "topology"]:
        shutil.copy(SOURCES / f"{name}.py", kernels)
    (kernels / "helper.py").write_text(HELPER)
    (kernels / "demo.py").write_text(DEMO.format(helper=".helper"))
    return kernels


def start(package: Path, before: str = "", **variables: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DENSECORE")}
    environment |= {
        "PYTHONPATH": str(package.parents[1]),
        "DENSECORE_CACHE_DIR": str(package.parents[2] / "cache"),
    }
    code = f"{before}\nimport json\nfrom densecore.kernels import demo\nprint(json.dumps(demo.report()))"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    home = package.parents[2]  # not the checkout, whose densecore would come first
    return subprocess.Popen(command, cwd=home, env=environment | variables, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen) -> tuple[dict, str]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output), errors


EXPECTED = {"outer": 20, "add": [1, 2]}


def test_next_process_compiles_only_after_an_edit_of_a_callee(package: Path) -> None:
    assert finish(start(package)) == (EXPECTED | {"compiled": 3}, "")
    assert finish(start(package)) == (EXPECTED | {"compiled": 0}, "")
    helper = package / "helper.py"
    helper.write_text(helper.read_text().replace("x + 1", "x + 2"))
    assert finish(start(package)) == ({"outer": 30, "add": [1, 2], "compiled": 3}, "")


def test_two_processes_compile_at_once(package: Path) -> None:
    both = [start(package), start(package)]
    for result, errors in map(finish, both):
        assert 0 <= result.pop("compiled") <= 3, "one may find what the other has just written"
        assert (result, errors) == (EXPECTED, "")
    assert finish(start(package)) == (EXPECTED | {"compiled": 0}, "")


def test_no_space_for_files(package: Path) -> None:
    pytest.importorskip("resource")
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    result, errors = finish(start(package, limit, PYTHONDONTWRITEBYTECODE="1"))
    assert result == EXPECTED | {"compiled": 3}
    assert errors.count("CompileCacheWarning") == 1


def test_without_the_compiler(package: Path) -> None:
    result, errors = finish(start(package, NUMBA_DISABLE_JIT="1"))
    assert (result, errors) == (EXPECTED | {"compiled": 0}, "")
    assert not (package.parents[2] / "cache").exists()
