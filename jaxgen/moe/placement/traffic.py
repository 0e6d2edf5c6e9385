"""Router traffic: tokens of each expert, step by step, recorded from training or invented."""

import pathlib

import numpy as np
from jaxtyping import Float, Int

from jaxgen.errors import ConfigError

Traffic = Int[np.ndarray, "steps L E"]


def recorded(name: str = "gpt") -> Traffic:
    """Traffic that `benchmarks/record_traffic.py` recorded while a small model was trained on text.

    Raises:
      ConfigError: a name that was not recorded.
    """
    return read(pathlib.Path(__file__).with_name(f"traffic_{name}.npz"))


def read(path: pathlib.Path) -> Traffic:
    """Counts of a file that `experiments.flexmoe` wrote.

    Raises:
      ConfigError: no such file, or one without counts [steps, layers, experts].
    """
    try:
        with np.load(path) as file:
            counts = file["counts"]
    except (OSError, ValueError, KeyError) as e:
        raise ConfigError("traffic", str(path), "an npz file with `counts`") from e
    if counts.ndim != 3 or not len(counts) or not np.issubdtype(counts.dtype, np.integer):
        shape = f"{counts.dtype}{counts.shape}"
        raise ConfigError("traffic", f"{path}: {shape}", "integers [steps, layers, experts]")
    return counts


def zipf(
    steps: int, layers: int, experts: int, tokens: int, *, exponent: float, seed: int
) -> Traffic:
    """The popularity of experts follows Zipf's law, in an order of each layer's own, and stays."""
    return _drawn(_popularity(layers, experts, exponent, seed)[None].repeat(steps, 0), tokens, seed)


def drifting(
    steps: int, layers: int, experts: int, tokens: int, *, exponent: float, period: int, seed: int
) -> Traffic:
    """Popularity moves, in `period` steps, from one random order of the experts to the next."""
    keys = [
        _popularity(layers, experts, exponent, seed + 1000 * i) for i in range(steps // period + 2)
    ]
    at = np.arange(steps) / period
    low, share = at.astype(int), (at % 1.0)[:, None, None]
    keys_ = np.stack(keys)
    return _drawn((1 - share) * keys_[low] + share * keys_[low + 1], tokens, seed)


def bursty(
    steps: int,
    layers: int,
    experts: int,
    tokens: int,
    *,
    exponent: float,
    rate: float,
    size: float,
    length: int,
    seed: int,
) -> Traffic:
    """Zipf's law; now and then (with probability `rate` a step) one expert is wanted `size` times more.

    Args:
      length: steps of a burst.
    """
    rng = np.random.default_rng(seed)
    share = _popularity(layers, experts, exponent, seed)[None].repeat(steps, 0)
    for step, layer in np.argwhere(rng.random((steps, layers)) < rate):
        share[step : step + length, layer, rng.integers(experts)] *= size
    return _drawn(share, tokens, seed)


def scaled(traffic: Traffic, tokens: int) -> Traffic:
    """The same shares with so many pairs of token and expert in each layer and step."""
    total = traffic.sum(-1, keepdims=True)
    exact = traffic * (tokens / np.maximum(total, 1))
    low = np.floor(exact).astype(np.int64)
    # What rounding down left over goes to the largest remainders.
    missing = tokens - low.sum(-1, keepdims=True)
    order = np.argsort(np.argsort(low - exact, -1, kind="stable"), -1, kind="stable")
    return low + (order < missing)


def moving_average(history: Traffic, keep: float) -> Int[np.ndarray, "L E"]:
    """Counts averaged over steps, the newest last, each step's weight `keep` times that of the one after it.

    Rounded to whole tokens. The weights sum to 1 however few steps there are.
    """
    weight = keep ** np.arange(len(history))[::-1]
    return np.rint(np.tensordot(weight / weight.sum(), history, 1)).astype(np.int64)


def _popularity(layers: int, experts: int, exponent: float, seed: int) -> Float[np.ndarray, "L E"]:
    rng = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, experts + 1) ** exponent
    return np.stack([rng.permutation(weight) for _ in range(layers)])


def _drawn(share: Float[np.ndarray, "steps L E"], tokens: int, seed: int) -> Traffic:
    share = share / share.sum(-1, keepdims=True)
    return np.random.default_rng(seed + 1).multinomial(tokens, share)
