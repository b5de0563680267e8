"""``python -m densecore.capi``: paths of this Python and of its shared library, a line each, for densecore.c."""

from __future__ import annotations

import sys

from densecore.capi.libpython import shared_libpython

print(sys.executable)
print(shared_libpython() or "")
