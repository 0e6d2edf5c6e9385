"""The household simulator: steps a second of many worlds at once, beside the Python executor of its peer.

    python benchmarks/world.py --peer=DIR

DIR is a checkout of szxiangjn/world-model-for-language-model (or of its folder build_dataset/mcts/virtualhome/simulation),
whose executor runs the same scripts, one world after the other, and must end in the same graphs. 4,096 apartments of
60 nodes; every line of the scripts is an action that can be done, drawn at random. Then simulations a second of the
tree search.
"""

import argparse
import pathlib
import statistics
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.world import actions, apartments, graph, planning
from jaxgen.world.graph import World

LINES = 16


@jax.jit
def draw(world: World, table: jax.Array, key: jax.Array) -> jax.Array:
    """A script of actions that can be done, by the way a random walk takes."""

    def line(world: World, key: jax.Array) -> tuple[World, jax.Array]:
        able = actions.valid(world, table) & (table[:, 0] >= 0)
        action = table[jax.random.categorical(key, jnp.where(able, 0.0, -jnp.inf))]
        return actions.step(world, action)[0], action

    return jax.lax.scan(line, world, jax.random.split(key, LINES))[1]


def timed(repeats: int, call: object) -> list[float]:
    """Seconds of each of some calls, after one that compiles."""
    out = []
    jax.block_until_ready(call())  # type: ignore[operator]
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())  # type: ignore[operator]
        out.append(time.perf_counter() - begin)
    return out


def show(name: str, steps: int, seconds: list[float]) -> float:
    """Prints a line; returns steps a second."""
    rate = steps / statistics.median(seconds)
    spread = f"{steps / max(seconds):,.0f} to {steps / min(seconds):,.0f}"
    print(f"{name}: {rate:,.0f} steps a second ({spread})", flush=True)
    return rate


def run_peer(
    folder: pathlib.Path, graphs: list, scripts: list[list[str]], ends: list
) -> list[float]:
    """Seconds that the peer takes for each world; its last graph must be ours."""
    inside = folder / "build_dataset/mcts/virtualhome/simulation"
    sys.path.insert(0, str(inside if inside.is_dir() else folder))
    from evolving_graph.environment import EnvironmentGraph
    from evolving_graph.execution import ScriptExecutor
    from evolving_graph.scripts import read_script_from_list_string

    seconds = []
    for source, lines, end in zip(graphs, scripts, ends, strict=True):
        executor = ScriptExecutor(EnvironmentGraph(source), {})
        script = read_script_from_list_string(lines)
        begin = time.perf_counter()
        ok, state, _ = executor.execute(script, w_graph_list=False)
        seconds.append(time.perf_counter() - begin)
        edges = {(e["from_id"], e["relation_type"], e["to_id"]) for e in state.to_dict()["edges"]}
        mine = {(e["from_id"], e["relation_type"], e["to_id"]) for e in end["edges"]}
        if not ok or edges != mine:
            raise SystemExit(f"the peer ends elsewhere: {executor.info.get_error_string()}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=pathlib.Path)
    parser.add_argument("--worlds", type=int, default=4096)
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--apartments", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peer_worlds", type=int, default=64)
    parser.add_argument("--simulations", type=int, default=256)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    graphs = [apartments.sample(rng, nodes=args.nodes) for _ in range(args.apartments)]
    loaded = [graph.load(g, nodes=args.nodes) for g in graphs]
    tables = [planning.table(w, size=4096) for w in loaded]
    copies = -(-args.worlds // args.apartments)
    few, table = graph.stack(loaded), jnp.stack(tables)
    keys = jax.random.split(jax.random.key(0), (copies, args.apartments))
    scripts = jax.lax.map(lambda k: jax.vmap(draw)(few, table, k), keys)
    scripts = scripts.reshape(-1, LINES, 3)[: args.worlds]
    worlds = jax.tree.map(lambda x: jnp.tile(x, (copies, *[1] * (x.ndim - 1)))[: args.worlds], few)
    print(
        f"{args.worlds} worlds of {args.nodes} nodes, {LINES} lines each, {jax.devices()[0].platform}"
    )

    steps = args.worlds * LINES
    many = jax.jit(jax.vmap(actions.run))
    done = many(worlds, scripts)
    if int(done.executed.sum()) != steps:
        raise SystemExit("a line failed")
    fast = show("vmapped and jitted", steps, timed(args.repeats, partial(many, worlds, scripts)))

    one = list(zip(loaded, scripts, strict=False))[:64]
    slow = show(
        "jitted, one world after the other",
        len(one) * LINES,
        timed(args.repeats, lambda: [actions.run(w, s) for w, s in one]),
    )
    print(f"vmapped over that: {fast / slow:.1f}x")
    if args.peer:
        count = min(args.peer_worlds, args.apartments)
        lines = [
            [
                actions.render(a, loaded[i], {n["id"]: n["class_name"] for n in graphs[i]["nodes"]})
                for a in np.asarray(scripts[i])
            ]
            for i in range(count)
        ]
        ends = [
            graph.dump(jax.tree.map(lambda x, i=i: x[i], done.world), graphs[i])
            for i in range(count)
        ]
        seconds = run_peer(args.peer, graphs[:count], lines, ends)
        peer = show("peer, one world after the other", LINES, seconds)
        print(f"vmapped over the peer: {fast / peer:.0f}x; target 100x")


if __name__ == "__main__":
    main()
