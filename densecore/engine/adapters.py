"""The LoRA adapters of an engine: by which names requests know them, and how long they stay in memory.

Requests hold the adapters themselves, not their names. So a request that was accepted ends with what it began with, and
an adapter that is unloaded meanwhile stays in memory until the last of them has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densecore import checks
from densecore.checks import MAX_LORA_SCALE, flag, number
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.memory import available_memory
from densecore.exceptions import InvalidConfigError
from densecore.models import Adapter, AdapterSet, AdapterUse, Model, load_adapter

__all__ = ["AdapterRegistry", "LoraAdapter"]

MAX_NAME_LENGTH = 256  # characters


@dataclass(frozen=True)
class LoraAdapter:
    """A loaded adapter.

    Attributes
    ----------
    name : by which requests ask for it.
    path : its file.
    scale : what requests get that give none.
    default : whether requests use it that name no adapter.
    rank, alpha : of the file; the rank is the highest of its tensors.
    num_matrices, num_bytes : matrices that it changes, and the memory that it takes.
    """

    name: str
    path: Path
    scale: float
    default: bool
    rank: int
    alpha: float
    num_matrices: int
    num_bytes: int


class AdapterRegistry:
    """Adapters by name. Safe to use from any thread, but for `settle`, which belongs to the kernel thread.

    in_use : what requests use that have not ended; called on the kernel thread
    """

    def __init__(self, model: Model, in_use: Callable[[], Iterable[AdapterUse]]) -> None:
        self._model, self._in_use = model, in_use
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[LoraAdapter, Adapter]] = {}

    @property
    def loaded(self) -> dict[str, LoraAdapter]:
        """What is loaded, by name, in the order in which it came."""
        with self._lock:
            return {name: info for name, (info, _) in self._loaded.items()}

    def load(self, path: Path, name: str | None, scale: float, *, default: bool) -> str:
        """Read an adapter, and let requests use it; returns its name, made from the file's if none is given."""
        flag("default", default)
        scale = number("scale", scale, -MAX_LORA_SCALE, MAX_LORA_SCALE)
        if name is not None:
            self._check_name(name)
        adapter = load_adapter(path, self._model, available_memory())

        def add() -> str:  # on the kernel thread, so that no step comes between
            added = self._add(adapter, name, scale, default=default)
            self.settle()
            return added

        return kernel_thread.call(add)

    def unload(self, name: str) -> None:
        """Let no new request use an adapter; its memory is free once none uses it."""
        with self._lock:
            if name not in self._loaded:
                raise self._unknown(name)
            del self._loaded[name]
        kernel_thread.call(self.settle)

    def resolve(self, lora: Any) -> tuple[AdapterUse, ...]:
        """What a request asked for, a value of `GenerationConfig.lora`: these adapters, or those that are the default.

        The order depends on the adapters alone, as their products are added up in it. InvalidConfigError if one is not
        loaded.
        """
        wanted = checks.lora(lora)
        with self._lock:
            if wanted is None:
                wanted = {name: None for name, (info, _) in self._loaded.items() if info.default}
            uses = [self._use(name, scale) for name, scale in wanted.items()]
        return tuple(sorted((use for use in uses if use.scale), key=lambda use: use.key))

    def check_loaded(self, uses: Iterable[AdapterUse]) -> None:
        """InvalidConfigError if an adapter was unloaded since it was resolved."""
        with self._lock:
            loaded = {adapter for _, adapter in self._loaded.values()}
        for use in uses:
            if use.adapter not in loaded:
                raise InvalidConfigError(f"the adapter {use.adapter.path} was unloaded before the request could start")

    def settle(self) -> None:
        """Give the model the adapters that are loaded or in use, and let go of others. Between steps."""
        with self._lock:
            wanted = [adapter for _, adapter in self._loaded.values()]
        has = self._model.adapters.adapters
        if len(wanted) == len(has) and set(wanted) == set(has):
            return
        wanted = list(dict.fromkeys([*wanted, *(use.adapter for use in self._in_use())]))
        if set(wanted) != set(has):
            self._model.adapters = AdapterSet(wanted)

    def _add(self, adapter: Adapter, name: str | None, scale: float, *, default: bool) -> str:
        with self._lock:
            if name is None:
                name = self._free_name(adapter.path.stem)
            elif name in self._loaded:
                raise self._taken(name)
            sizes = adapter.rank, adapter.alpha, len(adapter.pairs), adapter.num_bytes
            self._loaded[name] = LoraAdapter(name, adapter.path, scale, default, *sizes), adapter
        return name

    def _use(self, name: str, scale: float | None) -> AdapterUse:
        if name not in self._loaded:
            raise self._unknown(name)
        info, adapter = self._loaded[name]
        return AdapterUse(adapter, info.scale if scale is None else scale)

    def _check_name(self, name: Any) -> None:
        """Before the file is read, which may take a while."""
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise InvalidConfigError(f"name must be a string of 1 to {MAX_NAME_LENGTH} characters, not {name!r:.80}")
        if name in self._loaded:
            raise self._taken(name)

    def _free_name(self, stem: str) -> str:
        names = [stem, *(f"{stem}-{number}" for number in range(2, len(self._loaded) + 3))]
        return next(name for name in names if name not in self._loaded)

    def _taken(self, name: str) -> InvalidConfigError:
        return InvalidConfigError(f"an adapter {name!r} is loaded already: unload it first, or give another name")

    def _unknown(self, name: str) -> InvalidConfigError:
        known = ", ".join(map(repr, self._loaded)) or "none"
        return InvalidConfigError(f"no adapter {name!r:.80} is loaded; loaded are: {known} (see load_lora)")
