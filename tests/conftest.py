"""Where test material lies, and how tests find it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("DENSECORE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared_path(*parts: str) -> Path:
    """A file of the test material that lies beside the checkout; skips the test where there is none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"test material {'/'.join(parts)} is not beside this checkout", allow_module_level=True)
    return path
