"""What all parts share: the card's limits, turns of timing, FLOPs of a program, gates, precision."""

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.mesh import path_name

# Dense bf16 TFLOP/s of the vendor's data sheets. The first entry all of whose words are in the device's name
# counts, so longer ones stand before shorter.
PEAKS = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("A30", 165.0),
    ("A10", 125.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("RTX 4090", 165.0),
)


class Card(NamedTuple):
    """Where it runs: name, dense bf16 peak in FLOP/s (None for an unknown card), copies in bytes/s."""

    name: str
    peak: float | None
    bandwidth: float


class GateError(Exception):
    """Two sides do not compute the same."""


class Program(NamedTuple):
    """A compiled function with its arguments bound: call it, and wait for what it returns."""

    run: Callable[[], object]
    flops: float
    memory: int


class Side(NamedTuple):
    """One side of a comparison: starts the work, and waits for it."""

    run: Callable[[], object]
    wait: Callable[[object], object] = jax.block_until_ready


@dataclasses.dataclass
class Times:
    """Milliseconds of each round: until the work was done, and until the host was free again."""

    whole: list[float] = dataclasses.field(default_factory=list)
    host: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.whole)


def peak_of(name: str) -> float | None:
    """FLOP/s of dense bf16 products, by the device's name."""
    words = set(name.replace("-", " ").split())
    return next((tera * 1e12 for known, tera in PEAKS if words.issuperset(known.split())), None)


def card(small: bool) -> Card:
    """The device, with its bandwidth as a copy shows it: bytes read and written in a second."""
    a = jnp.zeros(2**22 if small else 2**29, jnp.bfloat16)
    copy = jax.jit(lambda a: a + 1)
    times = in_turns({"copy": Side(lambda: copy(a))}, rounds=10, seconds=2.0)["copy"]
    name = jax.devices()[0].device_kind
    return Card(name, peak_of(name), 2 * a.nbytes / (times.median * 1e-3))


def in_turns(
    sides: Mapping[str, Side], *, rounds: int = 20, warmup: int = 3, seconds: float = 5.0
) -> dict[str, Times]:
    """A B A B ...: the rounds after the warm-up. Slow sides get fewer, three at least."""
    times = {name: Times() for name in sides}
    begin = time.perf_counter()
    for i in range(warmup + rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            out = side.run()
            free = time.perf_counter()
            side.wait(out)
            done = time.perf_counter()
            del out
            if i >= warmup:
                times[name].host.append((free - start) * 1e3)
                times[name].whole.append((done - start) * 1e3)
        if i >= warmup + 2 and time.perf_counter() - begin > seconds:
            break
    return times


def programs(calls: Iterable[tuple]) -> list[Program]:
    """Compiles functions for their arguments, all at once: (f, *arguments) each.

    A program that could not be made raises what stood in its way when it is called.
    """

    def lower(f: Callable, *args: object) -> jax.stages.Lowered | Exception:
        try:
            return jax.jit(f).lower(*args)
        except Exception as e:
            return e

    def finish(lowered: jax.stages.Lowered | Exception, args: list) -> Program:
        try:
            if isinstance(lowered, Exception):
                raise lowered
            built = lowered.compile()
        except Exception as e:
            return Program(functools.partial(_raise, e), 0.0, 0)
        run = functools.partial(built, *args)
        return Program(run, flops_of(lowered, built), memory_of(built))

    lowered = [(lower(f, *args), args) for f, *args in calls]
    with futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda pair: finish(*pair), lowered))


def _raise(e: Exception) -> None:
    raise e


def flops_of(lowered: jax.stages.Lowered, built: jax.stages.Compiled) -> float:
    """XLA's count, in which a loop has one turn.

    Of the program before and after XLA the larger count: afterwards, products may be calls of libraries, which
    it does not count.
    """
    costs = [stage.cost_analysis() or {} for stage in (lowered, built)]
    return max(float(cost.get("flops", 0.0)) for cost in costs)


def memory_of(built: jax.stages.Compiled) -> int:
    """Bytes beside the arguments: temporaries, and results that do not take the place of arguments."""
    m = built.memory_analysis()
    return m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes


def filled(blank: object, seed: int = 0) -> object:
    """A model of shapes with random weights, made by NumPy: to compile an initialisation takes long.

    Kernels have variance 1 / fan-in; nothing is 0, as fresh residual blocks are: that would hide errors.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple, a: jax.ShapeDtypeStruct) -> jax.Array:
        last = path_name(path).rsplit("/", 1)[-1]
        noise = rng.standard_normal(a.shape, np.float32)
        if last == "kernel":
            noise *= float(np.prod(a.shape[:-1])) ** -0.5
        elif last == "embedding":
            noise *= a.shape[-1] ** -0.5
        else:
            noise = 0.1 * noise + (last == "scale")
        return jnp.asarray(noise, a.dtype)

    return jax.tree_util.tree_map_with_path(draw, blank)


def gap(pairs: Mapping[str, tuple[object, object]], tolerance: float) -> float:
    """The largest |ours - theirs|.

    Raises:
      GateError: where one is above `tolerance` times the largest of theirs.
    """
    worst = 0.0
    for name, (ours, theirs) in pairs.items():
        a, b = (as_numpy(x) for x in (ours, theirs))
        if a.shape != b.shape:
            raise GateError(f"{name} has shape {a.shape}, the other side {b.shape}")
        diff = float(np.abs(a - b).max())
        allowed = tolerance * float(np.abs(b).max())
        if not diff <= allowed:
            raise GateError(f"{name} differs by {diff:.2e}, allowed: {allowed:.1e}")
        worst = max(worst, diff)
    return worst


def as_numpy(x: object) -> np.ndarray:
    """Of either library, in float64."""
    if hasattr(x, "detach"):
        x = x.detach().float().cpu().numpy()
    return np.asarray(x, np.float64)


@contextlib.contextmanager
def precision(kind: str, torch: object = None) -> Iterator[None]:
    """Products of float32 in both libraries: "highest", or "tf32" where the card has it."""
    exact = kind == "highest"
    if torch is not None:
        torch.set_float32_matmul_precision("highest" if exact else "high")
        torch.backends.cudnn.allow_tf32 = not exact
    with jax.default_matmul_precision("highest" if exact else "tensorfloat32"):
        yield
