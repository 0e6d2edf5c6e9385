"""Linear maps of [..., D] with all rows on one axis, as CPUs want them in training."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float


def on_one_axis(
    f: Callable[[Float[Array, "N D"]], Float[Array, "N F"]], x: Float[Array, "*rows D"]
) -> Float[Array, "*rows F"]:
    """f of x, where f maps every row by itself.

    The gradient of a weight sums over all rows. Where they have two axes, XLA's CPU first transposes both factors of
    that product; with one axis it does not, and a training step of a transformer takes about 0.78 of the time
    (`benchmarks/rows.py`). On other platforms f has x as it is: reshaping may there move data, and a mesh cut both axes.
    """
    if x.ndim <= 2 or _platform() != "cpu":
        return f(x)
    y = f(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _platform() -> str:
    """What is traced will run there: on the mesh around it, which may be of another machine, or else here."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()
