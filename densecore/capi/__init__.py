"""The C API: ``densecore.h``, ``densecore.c``, and what stands behind them in Python.

::

    densecore.c  --(opens libpython, imports)-->  table.py        functions that C can call
                                                  engine.py       an engine's requests by number
                                                  callbacks.py    the thread that calls back

`densecore.capi.build` compiles the C file; ``python -m densecore.capi`` tells it where this Python is.
"""
