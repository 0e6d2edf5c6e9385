"""Traffic that an earlier version kept beside its checkpoints."""

import types

import numpy as np
import pytest

from experiments.flexmoe import study
from jaxgen.errors import RunError


def test_a_checkpoint_that_kept_its_traffic_beside_it_goes_on(tmp_path):
    placer = object.__new__(study.Placer)
    placer.devices, placer.path = 2, tmp_path / "static-0.npz"
    counts, places = np.arange(24).reshape(6, 2, 2), np.zeros((6, 2, 2, 1), int)
    extra = {"placement": np.zeros((2, 2), np.int32), "counts": np.zeros((2, 2, 2), np.int32)}
    state = types.SimpleNamespace(step=5, extra=extra)
    with pytest.raises(RunError, match=r"static-0\.npz, which the checkpoint needs"):
        placer.resume(state, {})
    np.savez(placer.path, counts=counts, placements=places)
    placer.resume(state, {})
    assert np.array_equal(placer.counts, counts[:4])
    state.step = 9
    with pytest.raises(RunError, match="fewer than the 8 steps"):
        placer.resume(state, {})
