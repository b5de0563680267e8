"""What loaded models consist of is nothing that Python's garbage collector has to look at again and again.

A full collection goes over every object of the process, 200,000 of them with compiled kernels: a quarter of a second in
which no other thread gets on, neither the event loop nor the step of the engine, once in some ten thousand tokens.
"""

from __future__ import annotations

import gc

__all__ = ["settle"]


def settle() -> None:
    """Models have come or gone: collect what is garbage now, and leave the rest out of later collections.

    A setting of the whole process, and so for who owns it.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
