"""From logits to token ids."""

from densecore.sampling.sampler import Sampler

__all__ = ["Sampler"]
