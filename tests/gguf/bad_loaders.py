"""Loaders that do what no loader should, to test the harness of broken files."""

from __future__ import annotations

import os
import time

from densecore.exceptions import ModelLoadError


class PickyError(ModelLoadError):
    """A subclass counts as a refusal too."""


def misbehaves(path: str) -> object:
    """Does what the file's name says."""
    name = os.path.basename(path)
    if name == "refuse":
        raise PickyError(f"{path}: wrong; allowed: right")
    if name == "two lines":
        raise ModelLoadError(f"{path}: wrong\nand more")
    if name == "raise":
        raise IndexError("list index out of range")
    if name == "exit":
        raise SystemExit(3)
    if name == "die":
        os.abort()
    if name == "hang":
        time.sleep(60)
    if name == "eat":
        return bytearray(64 << 20).count(1)
    if name == "starve":
        return bytearray(1 << 40)
    print("loaded")
    return None
