"""Experts on many devices, in any placement, with no new compilation when the placement changes.

Weights lie in slots, [slots, ...], split over the mesh axis `expert`; placement[s] is the expert whose
replica slot s holds (`jaxgen.moe.placement`). It is an argument of fixed shape, not a constant. A token
whose expert lies on its own device stays there while that replica's share lasts; the rest are dealt out so
that all replicas of an expert get their shares: even ones (Nie et al., 2023, section 3.2), or those that level the
devices for the counts of this step (`jaxgen.moe.placement.split`). The result is that of one copy of each expert.

Or the weights of all E experts are cut evenly over the devices, [E, ...] with a further axis split (`sharded`), and
each call deals whole experts out to the slots by one all-to-all (Symi, 2025, arXiv 2504.19925). Any placement costs the
same, and the exchange's transpose sums the gradients of replicas on the shards: no replica is kept equal to another,
and neither weights nor moments ever move.

Tokens travel by `jax.lax.ragged_all_to_all`, which moves just the rows there are; CPUs do not have it, so
there a padded `all_to_all` does the same.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from jaxgen import mesh as mesh_lib
from jaxgen.errors import require
from jaxgen.moe import dispatch
from jaxgen.moe.gates import Routing
from jaxgen.moe.grouped import varying_like
from jaxgen.moe.placement.planner import check_slots
from jaxgen.moe.placement.split import SPLITS, quotas, scheduled

AXIS = "expert"


def expert_parallel(
    x: Float[Array, "N D"],
    routing: Routing,
    weights: PyTree,
    experts: Callable[[PyTree, Float[Array, "M D"], Int[Array, " S"]], Float[Array, "M F"]],
    placement: Int[Array, " slots"],
    *,
    mesh: Mesh,
    num_experts: int,
    specs: PyTree,
    receive_capacity_factor: float = 0.0,
    split: str = "even",
    sharded: bool = False,
    ragged: bool | None = None,
) -> tuple[Float[Array, "N F"], Int[Array, ""]]:
    """sum_k w_nk f_k(x_n), and the number of kept pairs of token and expert that found no room.

    Args:
      weights: leaves [slots, ...]; where sharded [E, ...].
      experts: what a device does: (weights of its S slots, rows sorted by slot, rows of each slot).
      specs: PartitionSpecs of `weights`, the first axis `expert`. Where a further axis is split, `experts`
        sees its part and sums over that axis itself. Where sharded, a further axis is `expert`, and `experts`
        sees all of it.
      receive_capacity_factor: rows that a device can take in, as a multiple of its even share; 0 for as many as could ever
        come, so that nothing is lost. What comes after that (in the order of the devices) is dropped.
      split: of an expert's tokens over its replicas: one of `jaxgen.moe.placement.split.SPLITS`.
      sharded: see the top of this module.
      ragged: which exchange; by default, the padded one on CPUs alone.

    Raises:
      ValueError: slots, or tokens, or where sharded the axis that is split, that the devices do not divide.
    """
    allowed = (receive_capacity_factor >= 0) & (receive_capacity_factor < float("inf"))
    require("receive_capacity_factor", allowed, receive_capacity_factor, "0 or more")
    require("split", split in SPLITS, split, f"one of {', '.join(SPLITS)}")
    devices = mesh.shape[AXIS]
    check_slots(len(placement), num_experts, devices)
    cut = _cut(weights, specs, devices) if sharded else None
    parts = mesh_lib.batch_divisor(mesh)
    if len(x) % parts:
        raise ValueError(f"tokens is {len(x)}, allowed: a multiple of {parts}, the devices")
    if not len(x):
        rows = jax.eval_shape(
            lambda w, x: experts(w, x, jnp.zeros(len(placement), jnp.int32)), weights, x
        )
        return jnp.zeros((0, rows.shape[1]), rows.dtype), jnp.zeros((), jnp.int32)
    if ragged is None:
        ragged = mesh.devices.flat[0].platform != "cpu"
    pairs = len(x) // parts * routing.expert_ids.shape[1]
    rows_in = (
        pairs * devices
        if not receive_capacity_factor
        else min(pairs * devices, max(1, round(pairs * receive_capacity_factor)))
    )
    body = functools.partial(
        _on_device,
        experts=experts,
        num_experts=num_experts,
        devices=devices,
        rows_in=rows_in,
        split=split,
        cut=cut,
        ragged=ragged,
    )
    tokens = mesh_lib.BATCH
    return jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(tokens, tokens, tokens, tokens, specs, P()),
        out_specs=(tokens, P()),
    )(x, routing.expert_ids, routing.weights, routing.kept, weights, placement)


def _cut(weights: PyTree, specs: PyTree, devices: int) -> tuple[int, ...]:
    """Of each leaf, the axis that is split over `AXIS`."""
    cut = []
    places = jax.tree.leaves(specs, is_leaf=lambda spec: isinstance(spec, P))
    for leaf, spec in zip(jax.tree.leaves(weights), places, strict=True):
        cut.append(tuple(spec).index(AXIS))
        size = leaf.shape[cut[-1]]
        want = f"axis {cut[-1]} a multiple of {devices}, the devices"
        require("weights", size % devices == 0, leaf.shape, want)
    return tuple(cut)


def deal_out(
    shard: Float[Array, "E ..."], placement: Int[Array, " slots"], *, devices: int, axis: int
) -> Float[Array, "S ..."]:
    """The experts of a device's S slots, whole; inside `shard_map` over `AXIS`.

    Args:
      shard: this device's part of all experts.
      axis: of a shard, along which parts come together.
    """
    for_each = shard[placement.reshape(devices, -1)]  # [devices, S, ...]
    return jax.lax.all_to_all(for_each, AXIS, 0, axis + 1, tiled=True)[0]


def tie(
    weights: Float[Array, "slots ..."], placement: Int[Array, " slots"], num_experts: int
) -> Float[Array, "slots ..."]:
    """The weights; their gradient is summed over the replicas of each expert.

    All replicas get the same sum, so that an optimiser keeps equal replicas equal, bit by bit. Without
    replicas (as many slots as experts) there is nothing to sum.
    """
    if len(weights) == num_experts:
        return weights
    return _tie(num_experts, weights, placement)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tie(num_experts: int, weights: Array, placement: Array) -> Array:
    return weights


def _tie_forward(num_experts: int, weights: Array, placement: Array) -> tuple[Array, Array]:
    return weights, placement


def _tie_backward(num_experts: int, placement: Array, g: Array) -> tuple[Array, None]:
    return jax.ops.segment_sum(g, placement, num_experts)[placement], None


_tie.defvjp(_tie_forward, _tie_backward)


def share_out(
    placement: Int[Array, " slots"],
    counts: Int[Array, "G E"],
    device: Int[Array, ""] | int,
    expert: Int[Array, " M"],
    rank: Int[Array, " M"],
    shares: Float[Array, " slots"] | None = None,
) -> Int[Array, " M"]:
    """The slot of each of a device's pairs of token and expert.

    Args:
      counts: pairs of each device and expert.
      device: whose pairs these are.
      expert: of each pair; E for pairs that go nowhere, whose slot is `slots`.
      rank: a pair's place among those of this device with the same expert.
      shares: of its expert's pairs that each slot gets; even ones by default.
    """
    (devices, experts), slots = counts.shape, len(placement)
    total = counts.sum(0)
    replicas = jnp.bincount(placement, length=experts)
    # Slots by expert, then by place, so that those of one expert and one device lie together.
    order = jnp.argsort(placement)
    holds, owner = placement[order], order // (slots // devices)
    first = jnp.cumsum(replicas) - replicas
    if shares is None:
        which = jnp.arange(slots) - first[holds]
        quota = total[holds] // replicas[holds] + (which < total[holds] % replicas[holds])
    else:
        quota = quotas(shares[order], holds, total)
    # Local first: a device's own pairs fill its replicas of the expert, one after the other.
    ahead = jnp.cumsum(quota) - quota
    begins = jnp.concatenate(
        [jnp.ones(1, bool), (holds[1:] != holds[:-1]) | (owner[1:] != owner[:-1])]
    )
    ahead = ahead - jax.lax.cummax(jnp.where(begins, ahead, 0))
    local = jnp.clip(counts[owner, holds] - ahead, 0, quota)
    taken = jnp.zeros_like(counts).at[owner, holds].add(local)
    # The rest: all devices' leftover pairs in one line, against all slots' leftover room in one line.
    left = counts - taken
    line = jnp.cumsum(left.sum(0)) - left.sum(0) + jnp.cumsum(left, 0) - left
    room_ends = jnp.cumsum(quota - local)
    mine_ends = jnp.cumsum(jnp.where(owner == device, local, 0))
    mine = jnp.cumsum(taken[device]) - taken[device]
    stays = rank < taken[device].at[expert].get(mode="clip")
    at_home = jnp.searchsorted(mine_ends, mine.at[expert].get(mode="clip") + rank, side="right")
    away = (line - taken)[device].at[expert].get(mode="clip") + rank
    elsewhere = jnp.searchsorted(room_ends, away, side="right")
    slot = order.at[jnp.where(stays, at_home, elsewhere)].get(mode="clip")
    return jnp.where(expert < experts, slot, slots).astype(jnp.int32)


def exchange(
    rows: Float[Array, "M D"],
    sizes: Int[Array, "G G"],
    starts: Int[Array, "G G"],
    ends: Int[Array, "G G"],
    *,
    out_rows: int,
    ragged: bool,
) -> Float[Array, "R D"]:
    """Every device sends some of its rows to every other one; inside `shard_map` over `AXIS`.

    Args:
      sizes: rows that device i sends to device j.
      starts: where they begin in `rows` of device i.
      ends: where they begin in the result of device j. Rows that nothing is sent to are 0.
      out_rows: of the result.
    """
    me = jax.lax.axis_index(AXIS)
    out = varying_like(jnp.zeros((out_rows, rows.shape[1]), rows.dtype), rows)
    if ragged:
        return jax.lax.ragged_all_to_all(
            rows, out, starts[me], sizes[me], ends[me], sizes[:, me], axis_name=AXIS
        )
    place = jnp.arange(min(len(rows), out_rows))
    sent = rows.at[starts[me][:, None] + place].get(mode="fill", fill_value=0.0)
    sent = jnp.where((place < sizes[me][:, None])[..., None], sent, 0.0)
    came = jax.lax.all_to_all(sent, AXIS, 0, 0, tiled=True)
    at = jnp.where(place < sizes[:, me][:, None], ends[:, me][:, None] + place, out_rows)
    return out.at[at.reshape(-1)].set(came.reshape(-1, rows.shape[1]), mode="drop")


def _on_device(
    x: Array,
    ids: Array,
    gains: Array,
    kept: Array,
    weights: PyTree,
    placement: Array,
    *,
    experts: Callable[..., Array],
    num_experts: int,
    devices: int,
    rows_in: int,
    split: str,
    cut: tuple[int, ...] | None,
    ragged: bool,
) -> tuple[Array, Array]:
    me, k, slots = jax.lax.axis_index(AXIS), ids.shape[1], len(placement)
    if cut is not None:
        leaves, tree = jax.tree.flatten(weights)
        filled = [
            deal_out(shard, placement, devices=devices, axis=axis)
            for shard, axis in zip(leaves, cut, strict=True)
        ]
        weights = jax.tree.unflatten(tree, filled)
    per_device = slots // devices
    expert = jnp.where(kept, ids, num_experts).reshape(-1)
    count = jnp.bincount(expert, length=num_experts + 1)
    by_expert = jnp.argsort(expert)
    rank = jnp.arange(len(expert)) - (jnp.cumsum(count) - count)[expert[by_expert]]
    counts = jax.lax.all_gather(count[:num_experts], AXIS)
    shares = None
    if split == "scheduled":  # the same on all devices, from the same counts
        shares = scheduled(placement, counts.sum(0), devices=devices)
    slot = share_out(placement, counts, me, expert[by_expert], rank, shares)
    by_slot = jnp.argsort(slot)
    pair = by_expert[by_slot]
    of_token = jnp.argsort(pair).reshape(-1, k)

    # [from, to, slot]: rows that are sent, and of those the ones that find room.
    sent = jax.lax.all_gather(jnp.bincount(slot, length=slots + 1)[:slots], AXIS)
    sent = sent.reshape(devices, devices, per_device)
    whole = sent.sum(2)
    before = jnp.cumsum(whole, 0) - whole
    sizes = jnp.clip(rows_in - before, 0, whole)
    within = jnp.cumsum(sent, 2) - sent
    seated = jnp.clip(sizes[..., None] - within, 0, sent)
    starts, ends = jnp.cumsum(whole, 1) - whole, jnp.cumsum(sizes, 0) - sizes

    rows = exchange(
        dispatch.to_pairs(x, pair, of_token), sizes, starts, ends, out_rows=rows_in, ragged=ragged
    )
    here = seated[:, me]
    source = jnp.searchsorted(jnp.cumsum(here.reshape(-1)), jnp.arange(rows_in), side="right")
    owner = jnp.where(source < here.size, source % per_device, per_device)
    order = jnp.argsort(owner)
    y = experts(weights, rows[order], here.sum(0))
    y = jnp.where((owner[order] < per_device)[:, None], y, 0.0)
    y = jnp.zeros_like(y).at[order].set(y, unique_indices=True)
    back = exchange(y, sizes.T, ends.T, starts.T, out_rows=len(pair), ragged=ragged)

    weighted = back * gains.reshape(-1)[pair][:, None].astype(back.dtype)
    out = dispatch.of_pairs(weighted, pair, of_token)
    lost = jax.lax.psum((whole - sizes)[me].sum(dtype=jnp.int32), mesh_lib.BATCH_AXES)
    return out, lost
