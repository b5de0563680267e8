"""What is to be left out of a model: `PruneConfig` and presets."""

from __future__ import annotations

from dataclasses import dataclass

from densecore.checks import integer, number
from densecore.exceptions import InvalidConfigError

__all__ = ["METHODS", "PRESETS", "STRATEGIES", "PruneConfig"]

STRATEGIES = ("depth", "width", "attention", "combined")
METHODS = ("magnitude", "l2_norm", "activation", "random")
MAX_RATIO = 0.95
MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class PruneConfig:
    """A way to prune, checked when it is made (InvalidConfigError).

    strategy : ``depth`` leaves out whole layers; ``width`` channels of the feed-forward parts and of the residual
        stream (the hidden size); ``attention`` heads of queries with the keys and values that they share;
        ``combined`` layers, feed-forward channels and heads, fewer of each
    target_n_layer, target_hidden_dim, target_dim, target_n_kv_head : how many layers, feed-forward channels, channels
        of the residual stream, and heads of keys and values remain; each needs a strategy that prunes them
    importance_method : ``magnitude`` (mean of abs(w)), ``l2_norm`` (root mean square of w), ``activation`` (measured
        on a text), or ``random``, which is there to compare with
    ratio : part that is left out of whatever has no target, rounded down, but one at least
    seed : of ``random``
    """

    strategy: str = "depth"
    target_n_layer: int | None = None
    importance_method: str = "magnitude"
    ratio: float = 0.25
    target_hidden_dim: int | None = None
    target_dim: int | None = None
    target_n_kv_head: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InvalidConfigError(f"strategy must be one of {', '.join(STRATEGIES)}, not {self.strategy!r:.80}")
        if self.importance_method not in METHODS:
            allowed = ", ".join(METHODS)
            raise InvalidConfigError(f"importance_method must be one of {allowed}, not {self.importance_method!r:.80}")
        number("ratio", self.ratio, 0.0, MAX_RATIO, open_below=True)
        integer("seed", self.seed, 0)
        for name, strategies in _TARGETS.items():
            value = getattr(self, name)
            if value is None:
                continue
            integer(name, value, 1, MAX_SIZE)
            if self.strategy not in strategies:
                raise InvalidConfigError(
                    f"{name} is {value}, but the strategy {self.strategy} leaves that as it is: "
                    f"take {' or '.join(strategies)}"
                )


_TARGETS = {
    "target_n_layer": ("depth", "combined"),
    "target_hidden_dim": ("width", "combined"),
    "target_dim": ("width", "combined"),
    "target_n_kv_head": ("attention", "combined"),
}
PRESETS = {
    "DEPTH_PRUNE_25_CFG": PruneConfig("depth", ratio=0.25),
    "DEPTH_PRUNE_50_CFG": PruneConfig("depth", ratio=0.5),
    "WIDTH_PRUNE_25_CFG": PruneConfig("width", ratio=0.25),
    "ATTENTION_PRUNE_25_CFG": PruneConfig("attention", ratio=0.25),
    "COMBINED_PRUNE_25_CFG": PruneConfig("combined", ratio=0.25),
}
