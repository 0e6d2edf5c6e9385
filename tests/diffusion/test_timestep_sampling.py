import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion import timestep_sampling


def test_probabilities_follow_the_root_of_the_second_moment():
    state = jnp.array([1.0, 4.0, 16.0, 0.0])
    p = timestep_sampling.probabilities(state, 100, uniform=0.2)
    assert p.shape == (100,)
    assert np.isclose(p.sum(), 1, atol=1e-6)
    base = 0.2 / 100
    assert np.allclose((p[30] - base) / (p[0] - base), 2, rtol=1e-4)
    assert np.allclose((p[60] - base) / (p[0] - base), 4, rtol=1e-4)
    assert np.allclose(p[75:], base)


def test_update_moves_visited_ranges_only():
    state = timestep_sampling.init(4)
    t = jnp.array([1, 25, 100])
    new = timestep_sampling.update(state, t, jnp.array([3.0, 1.0, 2.0]), 100, decay=0.5)
    assert np.allclose(new, [0.5 + 0.5 * 5.0, 1.0, 1.0, 0.5 + 0.5 * 4.0])


def test_converges_to_the_losses_it_sees():
    state = timestep_sampling.init(2)
    for _ in range(200):
        state = timestep_sampling.update(state, jnp.array([1, 10]), jnp.array([1.0, 3.0]), 10)
    p = timestep_sampling.probabilities(state, 10, uniform=0.0)
    assert np.allclose(p[5] / p[0], 3, rtol=1e-3)
