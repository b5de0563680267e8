"""The next tokens of several requests at once.

What a request does in numpy is done one request after the other. The draws by the compiled fast path, of all requests
that take it, are done together, by all workers. A token depends on the logits and settings of its own request alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from densecore.kernels.plan import Plan
from densecore.kernels.sampling import NOTHING_KNOWN, Edits, Known, Settings, Workspace, sample
from densecore.kernels.sampling_rows import DRAW, pack_draws, pack_row, pack_rows, sample_rows

if TYPE_CHECKING:
    from densecore.sampling.sampler import Sampler

__all__ = ["Draw", "sample_batch"]

Result = TypeVar("Result")

NO_ROWS_KNOWN = Known(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32))


class Draw(NamedTuple):
    """What the fast path draws one token from: the arguments of densecore.kernels.sampling.sample, and an address."""

    place: int  # the row of the step's logits
    logits: np.ndarray | None  # (n_vocab,) float32 that take its place, of which nothing is known, or None
    settings: Settings
    edits: Edits
    n_edits: int
    u: float
    addresses: tuple[int, int, int]  # of the columns of `edits`


def sample_batch(
    samplers: Sequence[Sampler],
    logits: np.ndarray,
    num_workers: int = 1,
    known: Known = NO_ROWS_KNOWN,
    places: Sequence[int] | None = None,
) -> list[int | Exception]:
    """The next token of each sampler from its row of logits (num_rows, n_vocab), or why there is none.

    Rows are not looked at one by one where the fast path takes them as they are: when a model's step has just been
    through the caches, each array object costs as much time as a row's draw.

    num_workers : threads of the pool; they change how long it takes, and nothing else
    known : of all rows, which makes it faster: arrays (num_rows, num_blocks), masses at the samplers' `mass_scale`
    places : the row of each sampler, if they are not all rows in order
    """
    if logits.dtype != np.float32 or logits.strides[1] != logits.itemsize:
        logits = np.ascontiguousarray(logits, np.float32)
    places = range(len(logits)) if places is None else places
    prepared = [_attempt(sampler.prepare, logits, place) for sampler, place in zip(samplers, places, strict=True)]
    drawn = iter(_draw([step for step in prepared if isinstance(step, Draw)], logits, known, num_workers))
    results: list[int | Exception] = []
    for sampler, place, step in zip(samplers, places, prepared, strict=True):
        if isinstance(step, Exception):
            results.append(step)
        elif isinstance(step, Draw):
            results.append(_attempt(sampler.finish, logits, place, *next(drawn), step.logits))
        else:
            results.append(_attempt(sampler.finish, logits, place, step))
    return results


def _attempt(function: Callable[..., Result], *arguments: object) -> Result | Exception:
    """What a request's own code returns or raises: its failure must not reach its neighbours."""
    try:
        return function(*arguments)
    except Exception as error:
        return error


def _draw(draws: list[Draw], logits: np.ndarray, known: Known, num_workers: int) -> list[tuple[int, float]]:
    """Token ids, or the error codes of `sample`, each with the `surprise` that it leaves."""
    if not draws:
        return []
    if len(draws) == 1:  # to wake the pool takes longer than the row
        (draw,) = draws
        work = _workspace(logits.shape[1])
        row, of_row = draw.logits, NOTHING_KNOWN
        if row is None:
            row = logits[draw.place]
            of_row = NOTHING_KNOWN if known is NO_ROWS_KNOWN else Known(*(array[draw.place] for array in known))
        token_id = int(sample(row, of_row, work, draw.settings, draw.edits, draw.n_edits, draw.u))
        return [(token_id, float(work.surprise[0]))]
    plan = _rows_plan(len(draws), logits.shape[1], max(1, min(num_workers, len(draws))))
    return plan.run(draws, logits, known)


class _RowsPlan:
    """The compiled call for so many rows. It is kept, as most steps have as many rows as the one before."""

    def __init__(self, count: int, n_vocab: int, workers: int) -> None:
        self.workers, self.settings = workers, [_NO_SETTINGS] * count
        self.packed = np.zeros(count, DRAW)
        self.rows: tuple | None = None  # those that are packed, if there are no others among them
        self.token_ids, self.surprises = np.empty(count, np.int64), np.empty(count)
        self.taken = np.zeros(1, np.int64)
        work = _workspaces(n_vocab, workers)
        self.plan = Plan()
        self.plan.add(sample_rows, self.packed, n_vocab, work, self.token_ids, self.surprises, self.taken)

    def run(self, draws: list[Draw], logits: np.ndarray, known: Known) -> list[tuple[int, float]]:
        """What `_draw` returns, for as many draws."""
        self._pack_settings([draw.settings for draw in draws])
        self._pack_rows(draws, logits, known)
        pack_draws(
            self.packed,
            [draw.addresses for draw in draws],
            [draw.n_edits for draw in draws],
            [draw.u for draw in draws],
        )
        self.taken[0] = 0
        self.plan.run(self.workers)
        return list(zip(self.token_ids.tolist(), self.surprises.tolist(), strict=True))

    def _pack_settings(self, settings: list[Settings]) -> None:
        """Fill in those that changed: mostly none, as requests keep theirs, or the one that mirostat moves."""
        if settings != self.settings:
            columns = zip(Settings._fields, zip(*settings, strict=True), zip(*self.settings, strict=True), strict=True)
            for name, column, before in columns:
                if column != before:
                    self.packed[name] = column
            self.settings = settings

    def _pack_rows(self, draws: list[Draw], logits: np.ndarray, known: Known) -> None:
        """Fill in which rows are drawn from, unless they are those of the step before, as they mostly are."""
        where = [(array.__array_interface__["data"][0], array.shape, array.strides) for array in (logits, *known)]
        rows = [draw.place for draw in draws], where
        if rows != self.rows:
            pack_rows(self.packed, np.array(rows[0]), logits, known)
        changed = [(i, draw.logits) for i, draw in enumerate(draws) if draw.logits is not None]
        for i, row in changed:
            pack_row(self.packed, i, row)
        self.rows = None if changed else rows


_NO_SETTINGS = Settings(*[np.nan] * len(Settings._fields))  # NaN: equal to none
_MAX_PLANS = 64
_scratch = threading.local()


def _rows_plan(*key: int) -> _RowsPlan:
    """For (count, n_vocab, workers); each calling thread has its own."""
    plans = _scratch.__dict__.setdefault("plans", {})
    plan = plans.pop(key, None)
    if plan is None:
        if len(plans) >= _MAX_PLANS:
            plans.pop(next(iter(plans)))  # the one that was used least recently
        plan = _RowsPlan(*key)
    plans[key] = plan
    return plan


def _workspace(n_vocab: int) -> Workspace:
    """Scratch for one row."""
    return Workspace(*(column[0] for column in _workspaces(n_vocab, 1)))


def _workspaces(n_vocab: int, count: int) -> Workspace:
    """Scratch for `count` workers, for each calling thread: what all requests share stays in the CPUs' caches."""
    workspaces = _scratch.__dict__.setdefault("workspaces", {})
    if n_vocab not in workspaces or len(workspaces[n_vocab].keys) < count:
        workspaces[n_vocab] = Workspace.create(n_vocab, count)
    return workspaces[n_vocab]
