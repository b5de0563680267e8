"""GGUF model files: a validated, memory-mapped reader for every consumer, and a writer for tools and tests."""

from densecore.gguf.metadata import Metadata
from densecore.gguf.reader import GGUFFile
from densecore.gguf.tensors import TensorInfo
from densecore.gguf.types import GGMLType
from densecore.gguf.writer import GGUFWriter

__all__ = ["GGMLType", "GGUFFile", "GGUFWriter", "Metadata", "TensorInfo"]
