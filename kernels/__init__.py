"""Compiled kernels: numpy, numba, llvmlite and nothing else of the package.

The folder is called ``kernels`` in the source tree and installed as ``densecore.kernels``.
"""

if __name__ != "densecore.kernels":
    raise ImportError(
        f"this package is part of DenseCore and must be imported as densecore.kernels, not {__name__}: "
        "install the project (pip install -e .) and import densecore.kernels"
    )
