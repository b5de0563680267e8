"""From logits to token ids."""

from densecore.sampling.batch import NO_ROWS_KNOWN, sample_batch
from densecore.sampling.constraint import Constraint
from densecore.sampling.grammar import GrammarCompiler, TokenTable
from densecore.sampling.logprobs import TokenLogprobs, log_probabilities
from densecore.sampling.restrictions import Vocabulary
from densecore.sampling.sampler import Sampler

__all__ = [
    "NO_ROWS_KNOWN",
    "Constraint",
    "GrammarCompiler",
    "Sampler",
    "TokenLogprobs",
    "TokenTable",
    "Vocabulary",
    "log_probabilities",
    "sample_batch",
]
