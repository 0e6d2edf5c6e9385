import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses import vae


def test_free_bits_cost_what_they_leave():
    mu, log_var = jnp.zeros((4, 3)), jnp.asarray([[0.0, 0.5, 2.0]] * 4)
    kl = np.asarray(vae.kl_to_standard_normal(mu, log_var)).mean(0)
    value, aux = vae.loss(
        lambda x: (mu, log_var),
        lambda x, z: jnp.zeros(4),
        None,
        jax.random.key(0),
        beta=2.0,
        free_bits=0.5,
    )
    assert float(value) == pytest.approx(2.0 * np.maximum(kl, 0.5).sum(), rel=1e-6)
    assert float(aux["kl"]) == pytest.approx(kl.sum(), rel=1e-6)
    assert kl[1] < 0.5 < kl[2]


def test_cyclical_beta():
    """Periods of 8: four steps at 0, a rise over two, two at 1."""
    beta = jax.vmap(lambda s: vae.cyclical_beta(s, period=8))(jnp.arange(16))
    assert np.allclose(beta, [0, 0, 0, 0, 0, 0.5, 1, 1] * 2)
    with pytest.raises(ValueError, match="period is 0"):
        vae.cyclical_beta(0, period=0)
    with pytest.raises(ValueError, match="shares of at most 1"):
        vae.cyclical_beta(0, period=8, zero=0.9, rise=0.2)
