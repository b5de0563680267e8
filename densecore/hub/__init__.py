"""Models and other files from the Hugging Face Hub.

Everything that goes over the network goes through huggingface_hub, so its settings count: ``HF_ENDPOINT``, ``HF_HOME``
and the cache in it, ``HF_HUB_OFFLINE``, ``HF_TOKEN``. It is imported when something is asked for, not before.

The server is not trusted with names: where a file goes is decided in `layout` alone, inside of the cache.
"""

from densecore.hub.cached import CachedModel, cached_models, remove_models, repositories, unfinished_bytes
from densecore.hub.choice import PREFERENCE, quantization_of
from densecore.hub.download import commit_of, download, download_if_present
from densecore.hub.model import fetch_model
from densecore.hub.reference import ModelReference

__all__ = [
    "PREFERENCE",
    "CachedModel",
    "ModelReference",
    "cached_models",
    "commit_of",
    "download",
    "download_if_present",
    "fetch_model",
    "quantization_of",
    "remove_models",
    "repositories",
    "unfinished_bytes",
]
