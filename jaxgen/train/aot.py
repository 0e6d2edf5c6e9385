"""What a program asks of each chip, read off it before it runs: memory, FLOPs, collectives.

Programs are compiled ahead of time, also for TPU slices that are not there (`topology_devices`).
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.extend.core import jaxprs_in_params
from jaxtyping import PyTree

from jaxgen.errors import ConfigError, RunError
from jaxgen.mesh import Device


def topology_devices(name: str, *, slices: int = 1) -> Sequence[Device]:
    """Devices of TPU slices that are not there, to compile for; name of one such as `v5p:4x4x4`.

    Raises:
      ConfigError: without libtpu, or for a name that libtpu does not know.
    """
    try:
        import libtpu  # noqa: F401
    except ImportError as e:
        raise ConfigError(
            "mesh.topology", name, "needs libtpu: install the extra `tpu` of jaxgen"
        ) from e
    try:
        many = {"num_slices": slices} if slices > 1 else {}
        return topologies.get_topology_desc(name, platform="tpu", **many).devices
    except Exception as e:
        reason = str(e).splitlines()[0]
        raise ConfigError(
            "mesh.topology", name, f"a topology such as v5e:4x4, v5p:4x4x4 or v6e:16x16 ({reason})"
        ) from e


COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}


def collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Counts and result bytes (on one device) of each kind of collective in compiled HLO text.

    What stands in the body of a loop counts as often as the loop turns, where XLA knows that.
    """
    found: dict[str, list[tuple[str, int]]] = {}  # computation -> (kind, bytes) of its collectives
    callers: dict[str, tuple[str, str]] = {}  # computation -> (the one that calls it, that line)
    limits: dict[str, list[int]] = {}  # integer constants of each computation
    pattern = re.compile(r" = (.+?) (" + "|".join(COLLECTIVES) + r")(-start)?\(")
    current = signature = ""
    for line in hlo.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            current, signature = head.group(1), line
        for called in re.findall(r"(?:body|calls|to_apply)=%?([\w.\-]+)", line):
            callers[called] = current, line
        limits.setdefault(current, []).extend(
            int(n) for n in re.findall(r"= s32\[\]\S* constant\((\d+)\)", line)
        )
        match = pattern.search(line)
        if not match:
            continue
        size, kind, result = 0, match.group(2), match.group(1)
        if current.startswith("all-reduce-scatter"):  # how TPUs' compiler writes it
            kind, result = "reduce-scatter", signature.partition("->")[2]
        shapes = re.findall(r"([a-z]+[0-9]*)\[([0-9,]*)\]", result)
        # A -start op returns (operand, result, ..); only its result moves.
        if match.group(3) and len(shapes) > 1:
            shapes = shapes[len(shapes) // 2 :] if kind != "all-reduce" else shapes
        for dtype, dims in shapes:
            count = int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64))
            size += count * _BYTES.get(dtype, 4)
        found.setdefault(current, []).append((kind, size))

    def turns_of(computation: str) -> int:
        if computation not in callers:
            return 1
        outer, line = callers[computation]
        turns = 1
        if " while(" in line:
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            condition = re.search(r"condition=%?([\w.\-]+)", line)
            # TPU programs do not say; their conditions compare a counter from 0 with one constant.
            bounds = limits.get(condition.group(1), []) if condition else []
            if known:
                turns = int(known.group(1))
            elif len(bounds) == 1:
                turns = bounds[0]
        return turns * turns_of(outer)

    totals: dict[str, dict[str, int]] = {}
    for computation, entries in found.items():
        times = turns_of(computation)
        for kind, size in entries:
            entry = totals.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += times
            entry["bytes"] += times * size
    return totals


def matmul_flops(function: Callable[..., PyTree], *args: PyTree) -> float:
    """FLOPs of the matrix products and convolutions of one call, before it is split over devices.

    Read off the jaxpr, with a scan's body counted as often as it runs (XLA's own count takes it
    once); a while loop's body, whose number of turns nobody knows, counts once, and of a conditional's
    branches the costliest. Ragged products count all their rows, those of no group too.
    """

    def count(jaxpr: Any) -> float:  # a Jaxpr; the types of its values know no shapes
        total = 0.0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                (contract, _), _ = eqn.params["dimension_numbers"]
                shape = eqn.invars[0].aval.shape
                total += 2.0 * eqn.outvars[0].aval.size * np.prod([shape[i] for i in contract])
            elif eqn.primitive.name == "ragged_dot_general":
                dims = eqn.params["ragged_dot_dimension_numbers"]
                (contract, _), _ = dims.dot_dimension_numbers
                lhs, out = eqn.invars[0].aval, eqn.outvars[0].aval
                each = 2.0 * out.size * np.prod([lhs.shape[i] for i in contract])
                # Where rows of all groups are contracted, each group sees its own alone.
                total += each / (out.shape[0] if out.ndim > lhs.ndim else 1)
            elif eqn.primitive.name == "conv_general_dilated":
                kernel = eqn.invars[1].aval
                out_dim = eqn.params["dimension_numbers"].rhs_spec[0]
                total += 2.0 * eqn.outvars[0].aval.size * kernel.size / kernel.shape[out_dim]
            times = 1
            if eqn.primitive.name == "cond":
                total += max(map(count, jaxprs_in_params(eqn.params)))
                continue
            if eqn.primitive.name == "scan":
                times = eqn.params["length"]
            elif eqn.primitive.name == "shard_map":  # its body is what each device does
                times = eqn.params["mesh"].size
            total += times * sum(map(count, jaxprs_in_params(eqn.params)))
        return total

    return float(count(jax.make_jaxpr(function)(*args).jaxpr))


def kept_bytes(loss: Callable[..., tuple[PyTree, PyTree]], model: PyTree, *args: PyTree) -> int:
    """Bytes of what `loss(model, *args)` keeps for its gradient, before it is split over devices.

    Parameters themselves are left out; what is made again (`jax.checkpoint`) is not kept.

    Args:
      loss: returns (value, aux).
      model: as all arguments, arrays or ShapeDtypeStructs.
    """

    def backward(model: PyTree, *args: PyTree) -> PyTree:
        return jax.vjp(lambda m: loss(m, *args), model, has_aux=True)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, model, *args))
    known = collections.Counter((a.shape, a.dtype) for a in jax.tree.leaves(model))
    total = 0
    for a in kept:
        if known[a.shape, a.dtype]:
            known[a.shape, a.dtype] -= 1
        else:
            total += a.size * getattr(a.dtype, "itemsize", 8)
    return total


def split_bytes(*trees: PyTree) -> int:
    """Bytes on one chip of arrays that are split evenly, as their shardings say."""
    total = 0
    for a in jax.tree.leaves(trees):
        size = int(np.prod(a.sharding.shard_shape(a.shape), dtype=np.int64))
        total += size * getattr(a.dtype, "itemsize", 8)
    return total


def compile_report(lowered: jax.stages.Lowered) -> dict[str, Any]:
    """Compiles what `jit(f).lower(...)` returned; memory of one chip, and collectives of one step.

    The compiler itself writes the text that collectives are read from: jax cannot print programs whose
    gathers run on a TPU's sparse cores (jaxlib 0.10.2).

    Raises:
      RunError: the platform's compiler does not count memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, str | bool] = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile(compiler_options=options)
        texts = list(pathlib.Path(folder).glob("*after_optimizations.txt"))
        hlo = "".join(path.read_text() for path in texts) or compiled.as_text() or ""
    memory = compiled.memory_analysis()
    if memory is None:
        raise RunError("the compiler of this platform does not tell what a program needs")
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    peak = arguments + outputs - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return {
        "memory_bytes_per_chip": int(peak),
        "argument_bytes_per_chip": int(arguments),
        "temporary_bytes_per_chip": int(memory.temp_size_in_bytes),
        "collectives": collectives(hlo),
    }
