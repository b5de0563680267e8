"""The built-in model: pystd-6m, a small Llama trained on the Python standard library's source."""

from importlib.resources import files
from pathlib import Path

__all__ = ["builtin_model_path"]


def builtin_model_path() -> Path:
    """Path of the GGUF file that ships with the package."""
    return Path(str(files(__name__) / "pystd-6m-q8_0.gguf"))
