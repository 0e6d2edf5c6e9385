"""What the tests tell XLA, and the environment of the programs that they launch."""

import importlib.metadata
import os

# Compiling, not running, is what tests spend their time on: half of it with the older emitters, which jaxlib 0.10
# still has, and a fifth less again of larger programs where each is compiled in one piece. Newer ones know no such
# emitters, and gain nothing by one piece.
_OLDER_EMITTERS = importlib.metadata.version("jaxlib").startswith("0.10.")
XLA_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if _OLDER_EMITTERS
    else ""
)

# For `jax.jit(f, compiler_options=RUNS_LONG)`: programs compile without optimisations here (see conftest), and one
# that draws millions of numbers then runs three times as long.
RUNS_LONG = {"xla_backend_optimization_level": 2}

# For the same: as users' programs compile.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def environment(*, for_tpu: bool = False) -> dict[str, str]:
    """Of a launch as from a shell: on one CPU device, where the tests themselves have eight.

    Args:
      for_tpu: it compiles for a TPU, whose compiler knows no flags of CPUs.
    """
    flags = "" if for_tpu else XLA_FLAGS
    return dict(os.environ) | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
