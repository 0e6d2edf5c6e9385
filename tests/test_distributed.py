"""Which environments are a cluster's; the meeting itself is in tests/test_launch.py and tests/multihost."""

import jax
import pytest

from jaxgen import distributed
from jaxgen.errors import ConfigError

SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}


@pytest.mark.parametrize(
    ("env", "tpu", "want"),
    [
        ({}, False, ""),
        (SLURM, False, "SLURM"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, False, ""),
        # A batch script: the job has tasks, and no srun started this one.
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, False, ""),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, False, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False, ""),
        ({}, True, "Cloud TPU"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True, "Cloud TPU"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "1"}, True, "Cloud TPU"),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_SKIP_MDS_QUERY": "1"}, True, ""),
        ({"MEGASCALE_NUM_SLICES": "2", "TPU_SKIP_MDS_QUERY": "1"}, True, "Cloud TPU"),
        # libtpu is installed to compile, without a TPU.
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, False, ""),
    ],
)
def test_clusters(env, tpu, want):
    assert distributed.found(env, tpu) == want


def test_who_meets_and_with_what(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **k: calls.append(k))
    none = {"coordinator_address": None, "num_processes": None, "process_id": None}
    monkeypatch.setattr(distributed, "found", lambda: "")
    distributed.meet()
    distributed.meet(1)
    assert calls == []
    monkeypatch.setattr(distributed, "found", lambda: "SLURM")
    distributed.meet(1)  # said to be alone
    assert calls == []
    distributed.meet()
    distributed.meet(4)
    distributed.meet(2, 1, "host:123")
    given = {"coordinator_address": "host:123", "num_processes": 2, "process_id": 1}
    assert calls == [none, {**none, "num_processes": 4}, given]


def test_a_cluster_that_fails_is_named(monkeypatch):
    def fail(**_):
        raise RuntimeError("nobody there")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    monkeypatch.setattr(distributed, "found", lambda: "SLURM")
    with pytest.raises(ConfigError, match=r"SLURM was found here, .*\(nobody there\)"):
        distributed.meet()
