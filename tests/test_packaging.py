"""What users install: wheel and source distribution hold the kernels and the built-in model, and nothing odd."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WANTED = [
    "densecore/__init__.py",
    "densecore/py.typed",
    "densecore/data/pystd-6m-q8_0.gguf",
    "densecore/data/README-pystd.md",
    "densecore/server/chat.html",
    "densecore/capi/densecore.h",
    "densecore/capi/densecore.c",
    "densecore/kernels/simd.py",
    "densecore/kernels/formats/q4_k.py",
]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_wheel(distributions):
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert set(WANTED) <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"densecore"}
    assert any(name.endswith("LICENSE") for name in names)
    packages = {str(path.relative_to(ROOT).parent) for path in ROOT.glob("densecore/**/*.py")}
    packages |= {str(Path("densecore", path.relative_to(ROOT).parent)) for path in ROOT.glob("kernels/**/*.py")}
    assert {str(Path(name).parent) for name in names if name.endswith(".py")} == packages


def test_source_distribution(distributions):
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[-1] for name in opened.getnames()}
    moved = {name.replace("densecore/kernels", "kernels") for name in WANTED}
    assert moved | {"LICENSE", "README.md", "pyproject.toml"} <= names
