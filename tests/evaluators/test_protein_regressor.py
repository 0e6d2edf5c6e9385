import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from jaxgen.data.tokens import TokenShape
from jaxgen.evaluators.protein_regressor import ProteinRegressor

SHAPE = TokenShape(size=5, source_size=5, length=6, begin=0, end=0, unknown=0, source_pad=0)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other in each of 300 trees are slow on a machine with other work."""
    with threadpool_limits(1):
        yield


def test_values_of_letters_are_learned_and_repeat():
    """The value is the number of letters 3; what is predicted for others follows it."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 5, (400, 6)).astype(np.int32)
    value = (ids == 3).sum(1).astype(np.float64)
    judge = ProteinRegressor.train(SHAPE, ids[:300], value[:300])
    guess = judge.predict(ids[300:])
    assert guess.shape == (100,)
    assert 1 - ((guess - value[300:]) ** 2).mean() / value[300:].var() > 0.8
    again = ProteinRegressor.train(SHAPE, ids[:300], value[:300])
    assert np.array_equal(again.predict(ids[300:]), guess)
    many, none = (np.full((1, 6), letter, np.int32) for letter in (3, 1))
    assert judge.predict(many) > judge.predict(none) + 1
