"""Compiles what a model needs ahead of its first step, in several processes at once.

The kernels are independent of each other, and the compile cache is shared by all processes, so:

* ``needed``    finds out which kernels a model needs and the cache lacks, without compiling;
* ``parallel``  hands them out, the slowest first, to this process and to helpers that it starts;
* ``helper``    is what a helper runs.

Whatever happens to a helper, nothing is lost: a kernel that is still missing is compiled when it is called, as ever.
"""

from __future__ import annotations

from densecore.precompile.parallel import precompile

__all__ = ["precompile"]
