"""Embeddings and reranking: vectors of texts, and scores of documents for a query. `llm` adds generation."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from densecore.checks import flag, integer
from densecore.engine.embedding import Embedding, Text
from densecore.exceptions import InvalidConfigError, QueueFullError
from densecore.loaded_model import LoadedModel, checked_text
from densecore.models import POOLING_KINDS, RANK
from densecore.pending import POLL_SECONDS

__all__ = ["EmbeddingModel", "PoolingWarning", "RerankResult", "unit_length"]

MODEL = "model"  # the pooling that the file names
GROUP = 256  # texts that are submitted at once: others get their turn between them

Progress = Callable[[int, int], Any]  # (texts that are done, all texts)


class PoolingWarning(UserWarning):
    """The pooling was not chosen, and the default is not what the model was made for."""


class _Default(str):
    """Tells an argument that was not given from an equal one that was."""


_MEAN = _Default("mean")


@dataclass(frozen=True)
class RerankResult:
    """A document and how well it answers the query: higher is better, on the model's own scale."""

    index: int  # in the list of documents
    score: float
    document: str


class EmbeddingModel(LoadedModel):
    """What a model does with whole texts; see `llm.DenseCore` for the constructor."""

    _warned_of_pooling = False

    def embed(
        self, text: str | SequenceOf[int], pooling: str = _MEAN, normalize: bool = True, *, truncate: bool = False
    ) -> np.ndarray:
        """The embedding of a text, or of its token ids: (dim,) float32.

        pooling : what makes a vector of the hidden states of all tokens: ``mean``, ``cls`` (the first), ``last``,
            ``max``, or ``model``: what the model's file names, which is what it was trained with
        normalize : make the vector's length 1
        truncate : cut a text that is too long at its end, instead of refusing it

        A text gets the special tokens that the model expects around it; token ids are taken as they are.

        Raises
        ------
        InvalidConfigError
            The text is too long, an argument is out of range, or the model ranks and does not embed.
        InferenceError
            The model gave NaN, or is closed.

        Warns
        -----
        PoolingWarning
            Once a model, if `pooling` is not given and its file names another one than the mean.
        """
        if not isinstance(text, str) and not _are_ids(text):
            raise InvalidConfigError("text must be a string or a list of token ids")
        return self.embed_batch([text], pooling, normalize, truncate=truncate)[0]

    def embed_batch(
        self,
        texts: SequenceOf[str | SequenceOf[int]],
        pooling: str = _MEAN,
        normalize: bool = True,
        *,
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Embeddings of any number of texts, (num_texts, dim) float32: much faster than one after the other.

        progress : called as ``progress(done, total)`` whenever a text is done

        Other arguments and errors are those of `embed`.
        """
        kind = self._pooling(pooling)
        flag("normalize", normalize)
        vectors = self._run(self.embedding_texts(texts, truncate=truncate), kind, progress)
        return self._matrix(vectors, normalize)

    def submit_embedding(self, text: str | SequenceOf[int], pooling: str = MODEL) -> Future[np.ndarray]:
        """Start a request and return at once: a Future of what `embed` gives for `pooling`, with ``normalize=False``.

        ``future.cancel()`` ends the request. Raises what `embed` does for the text and the pooling, and QueueFullError.
        """
        (future,) = self._any_engine.embed(self.embedding_texts([text]), self._pooling(pooling))
        return future

    async def embed_texts_async(self, texts: SequenceOf[Text], timeout: float | None = None) -> np.ndarray:
        """Embeddings (num_texts, dim), of length 1, of what `embedding_texts` made, by the model's own pooling.

        For asyncio: cancelling the task ends the work.
        """
        return self._matrix(await self._run_async(texts, self._pooling(MODEL), timeout), True)

    def rerank(
        self,
        query: str,
        documents: SequenceOf[str],
        top_n: int | None = None,
        *,
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> list[RerankResult]:
        """Documents by how well they answer a query, the best first; the `top_n` best ones if that is given.

        The model must be a reranker: a cross-encoder, or a decoder with a head that scores. It reads the query beside
        each document. Scores are what its head gives: often logits, of any sign.

        Raises
        ------
        InvalidConfigError
            The model has no such head, or a query and a document together are too long: see `embed`'s `truncate`.
        """
        texts = self.pair_texts(query, documents, truncate=truncate)
        vectors = self._run(texts, self._classifier.token, progress)
        return self._ranked(vectors, documents, top_n)

    async def rerank_texts_async(
        self, texts: SequenceOf[Text], documents: SequenceOf[str], top_n: int | None, timeout: float | None = None
    ) -> list[RerankResult]:
        """As `rerank`, of what `pair_texts` made, for asyncio."""
        vectors = await self._run_async(texts, self._classifier.token, timeout)
        return self._ranked(vectors, documents, top_n)

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self._any_engine.model.config.dim

    @property
    def pooling(self) -> str:
        """What the pooling ``model`` stands for: ``mean``, ``cls`` or ``last``; ``rank`` of a reranker.

        Where the file names none it is the mean for encoders, and the last token for models that generate.
        """
        return self._any_engine.model.pooling or ("mean" if self.is_encoder else "last")

    # ------------------------------------------------------------------ texts to tokens

    def embedding_texts(self, texts: Iterable[str | SequenceOf[int]], *, truncate: bool = False) -> list[Text]:
        """The tokens of texts to embed, with the special tokens around them; what is too long is refused, or cut."""
        if isinstance(texts, str | bytes):
            raise InvalidConfigError("texts must be a list of texts; for a single one there is embed")
        flag("truncate", truncate)
        return [Text(self._embedding_ids(text, truncate=truncate, number=i)) for i, text in enumerate(texts)]

    def pair_texts(self, query: str, documents: SequenceOf[str], *, truncate: bool = False) -> list[Text]:
        """The tokens that a reranker reads: the query with each document."""
        if isinstance(documents, str | bytes):
            raise InvalidConfigError("documents must be a list of texts")
        flag("truncate", truncate)
        checked_text("query", query)
        make = self._prompted_pair if self._rerank_template else self._separated_pair
        _ = self._classifier
        limit = self.max_model_len
        texts = []
        for number, document in enumerate(documents):
            text = make(query, checked_text("each document", document), limit if truncate else None)
            if len(text.token_ids) > limit:
                raise _too_long(f"the query and document {number}", len(text.token_ids), limit)
            texts.append(text)
        return texts

    def _embedding_ids(self, text: str | SequenceOf[int], *, truncate: bool, number: int) -> list[int]:
        limit, tokenizer = self.max_model_len, self._tokenizer
        if isinstance(text, str):
            ids = tokenizer.encode(text, parse_special=True)
            ids = tokenizer.add_special(ids, limit if truncate else None) or [self._stand_in()]
        else:
            ids = self._checked_ids(text)
            ids = ids[:limit] if truncate else ids
        if len(ids) > limit:
            raise _too_long(f"text {number}", len(ids), limit)
        return ids

    def _stand_in(self) -> int:
        """The token of an empty text, where the model puts none around it."""
        known = [i for i in (self._tokenizer.eos_id, self._tokenizer.bos_id) if i is not None]
        return known[0] if known else 0

    def _separated_pair(self, query: str, document: str, limit: int | None) -> Text:
        first, second = (self._tokenizer.encode(text, parse_special=False) for text in (query, document))
        ids, types = self._tokenizer.pair(first, second, limit)
        if getattr(self._any_engine.model, "num_token_types", 1) < 2:
            types = [0] * len(ids)
        return Text(ids, types)

    def _prompted_pair(self, query: str, document: str, limit: int | None) -> Text:
        """As a file's template for reranking says; to cut it, the document is shortened."""
        encode = self._tokenizer.encode
        before, _, after = self._rerank_template.partition("{document}")
        head, tail = (encode(part.replace("{query}", query), parse_special=True) for part in (before, after))
        body = encode(document, parse_special=False)
        if limit is not None:
            body = body[: max(limit - len(head) - len(tail), 0)]
        return Text([*head, *body, *tail])

    # ------------------------------------------------------------------ inside

    def _pooling(self, pooling: str) -> str:
        """The kind of pooling that is meant."""
        own = self.pooling
        if pooling == MODEL:
            if own == RANK:
                raise InvalidConfigError(
                    "this model ranks documents and was not made to embed texts: use rerank, or choose a pooling"
                )
            return own
        if pooling not in POOLING_KINDS:
            known = ", ".join([*POOLING_KINDS, MODEL])
            raise InvalidConfigError(f"pooling must be one of {known}, not {pooling!r:.80}")
        if isinstance(pooling, _Default) and self._any_engine.model.pooling not in (None, pooling):
            self._warn_of_pooling(own)
        return str(pooling)

    def _warn_of_pooling(self, own: str) -> None:
        if not self._warned_of_pooling:
            self._warned_of_pooling = True
            warnings.warn(
                f"the mean is taken of all tokens, but this model was made for the pooling {own!r}: "
                "say pooling='model' for that, or pooling='mean'",
                PoolingWarning,
                stacklevel=5,
            )

    @property
    def _classifier(self) -> Any:
        found = self._any_engine.model.classifier
        if found is None:
            raise InvalidConfigError(
                "this model has no head that scores documents (tensor cls.output.weight): load a reranker, "
                "or compare embeddings"
            )
        return found

    def _groups(self, texts: SequenceOf[Text]) -> Iterator[SequenceOf[Text]]:
        size = max(1, min(GROUP, self._any_engine.config.max_num_waiting))
        return (texts[first : first + size] for first in range(0, len(texts), size))

    def _run(self, texts: SequenceOf[Text], kind: str, progress: Progress | None) -> list[np.ndarray]:
        vectors: list[np.ndarray] = []
        for group in self._groups(texts):
            futures = self._submit(group, kind)
            try:
                for future in futures:
                    vectors.append(future.result())
                    if progress is not None:
                        progress(len(vectors), len(texts))
            finally:
                _cancel(futures)
        return vectors

    def _submit(self, group: SequenceOf[Text], kind: str) -> list[Embedding]:
        """Submit; while others fill the queue, wait."""
        while True:
            try:
                return self._any_engine.embed(group, kind)
            except QueueFullError:
                time.sleep(POLL_SECONDS)

    async def _run_async(self, texts: SequenceOf[Text], kind: str, timeout: float | None) -> list[np.ndarray]:
        vectors: list[np.ndarray] = []
        for group in self._groups(texts):
            futures = self._any_engine.embed(group, kind, timeout)
            try:
                for future in futures:
                    vectors.append(await asyncio.wrap_future(future))
            finally:
                _cancel(futures)
        return vectors

    def _matrix(self, vectors: SequenceOf[np.ndarray], normalize: bool) -> np.ndarray:
        matrix = np.array(vectors, np.float32).reshape(len(vectors), self.embedding_dim)
        return unit_length(matrix) if normalize else matrix

    def _ranked(
        self, vectors: SequenceOf[np.ndarray], documents: SequenceOf[str], top_n: int | None
    ) -> list[RerankResult]:
        if top_n is not None:
            integer("top_n", top_n, 1)
        score = self._classifier.score
        results = [
            RerankResult(i, score(vector), document)
            for i, (vector, document) in enumerate(zip(vectors, documents, strict=True))
        ]
        return sorted(results, key=lambda result: -result.score)[:top_n]


def unit_length(matrix: np.ndarray) -> np.ndarray:
    """Rows (num_rows, dim) divided by their lengths; zeros stay zeros."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1)


def _cancel(futures: Iterable[Embedding]) -> None:
    for future in futures:
        if not future.done():
            future.cancel()


def _are_ids(text: Any) -> bool:
    is_list = isinstance(text, SequenceOf | np.ndarray) and not isinstance(text, bytes | bytearray)
    return is_list and not any(isinstance(item, str) for item in text)


def _too_long(what: str, length: int, limit: int) -> InvalidConfigError:
    return InvalidConfigError(
        f"This model's maximum context length is {limit} tokens, and {what} has {length}: shorten it, or say truncate "
        "to have its end cut"
    )
