"""Starting `jax.distributed`: by what a person says, or by what a cluster's scheduler left in the environment.

jax knows Cloud TPU, SLURM, Open MPI and Kubernetes, and finds process 0 and the numbers there. What it does
not say is whether a program is one of several at all; `found` does.
"""

import glob
import os
import socket
from collections.abc import Mapping

import jax

from jaxgen.errors import ConfigError


def found(env: Mapping[str, str] | None = None, tpu: bool | None = None) -> str:
    """The cluster in whose job this process is one of several; empty for none.

    A TPU VM is always taken for part of a pod: with one host, `jax.distributed` has one process.

    Args:
      env: variables; by default those of this process.
      tpu: whether a TPU is in this machine; by default as its device files say.
    """
    env = os.environ if env is None else env
    if tpu is None:
        tpu = bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))

    def count(name: str) -> int:
        return int(env[name]) if env.get(name, "").isdigit() else 1

    # Of a step that srun started: a batch script itself has the job's variables too, and is alone.
    if "SLURM_JOB_ID" in env and "SLURM_PROCID" in env and count("SLURM_STEP_NUM_TASKS") > 1:
        return "SLURM"
    if count("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    several = "," in env.get("TPU_WORKER_HOSTNAMES", "") or count("MEGASCALE_NUM_SLICES") > 1
    alone = env.get("TPU_SKIP_MDS_QUERY") is not None and not several
    return "Cloud TPU" if tpu and not alone else ""


def meet(processes: int = 0, process_id: int = -1, coordinator: str = "") -> None:
    """Starts `jax.distributed`, where there are several processes.

    Args:
      processes: in all; 0 for what `found` says, 1 for none but this.
      process_id: of this process, -1 where jax finds it.
      coordinator: HOST:PORT of process 0, empty where jax finds it.

    Raises:
      ConfigError: the processes cannot meet as these say.
    """
    cluster = found() if not (processes or coordinator) else ""
    if processes <= 1 and not (coordinator or cluster):
        return
    field = "mesh.coordinator" if coordinator else "mesh.processes"
    try:
        if coordinator and process_id == 0:
            # Where the port is taken, the service would write lines of its own.
            with socket.socket(socket.AF_INET) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("", int(coordinator.rpartition(":")[2])))
        jax.distributed.initialize(
            coordinator_address=coordinator or None,
            num_processes=processes if processes > 1 else None,
            process_id=process_id if process_id >= 0 else None,
        )
    except Exception as e:  # of many kinds; nothing runs yet
        allowed = "mesh.processes, mesh.process_id and mesh.coordinator that fit together, or a "
        allowed += "cluster that jax knows"
        if cluster:
            allowed += f"; {cluster} was found here, and mesh.processes=1 takes this process alone"
        raise ConfigError(field, coordinator or processes, f"{allowed} ({e})") from e
