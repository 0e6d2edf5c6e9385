import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import ConfigError
from jaxgen.world import graph, nodesets
from tests.world.houses import house, same


def test_saving_and_loading_again_changes_nothing():
    source = house()
    source["nodes"][4]["bounding_box"] = {"center": [0, 1, 2], "size": [1, 1, 1]}
    source["edges"].append(source["edges"][0])  # counts once
    world = graph.load(source)
    saved = graph.dump(world, source)
    assert len(saved["edges"]) == len(source["edges"]) - 1
    assert saved["nodes"][4]["bounding_box"]["size"] == [1, 1, 1]
    again = graph.load(saved)
    assert same(world, again)
    assert graph.dump(again, saved) == saved


def broken(change):
    source = copy.deepcopy(house())
    change(source)
    return source


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda g: g["nodes"].append(g["nodes"][0]),
            r"graph.nodes\[9\].id is 1, allowed: an id that no",
        ),
        (
            lambda g: g["edges"].append({"from_id": 1, "relation_type": "ON", "to_id": 40}),
            r"graph.edges\[13\].to_id is 40",
        ),
        (
            lambda g: g["edges"][0].update(relation_type="UNDER"),
            "relation_type is 'UNDER', allowed: ON, INSIDE",
        ),
        (lambda g: g["nodes"][4]["states"].append("WET"), "states is 'WET', allowed: CLOSED"),
        (lambda g: g["nodes"][4]["properties"].append("BLUE"), "properties is 'BLUE'"),
        (lambda g: g["nodes"].pop(2), r"from_id is 3"),
        (lambda g: g.pop("edges"), "graph.edges is None, allowed: a list"),
        (lambda g: g["nodes"][0].pop("states"), "an entry with 'states'"),
        (
            lambda g: g["nodes"][0].update(class_name="character"),
            "exactly one node of class character",
        ),
    ],
)
def test_graphs_that_cannot_be_read(change, told):
    with pytest.raises(ConfigError, match=told):
        graph.load(broken(change))


def test_worlds_of_different_sizes_do_not_stack():
    with pytest.raises(ConfigError, match="worlds of one size"):
        graph.stack([graph.load(house()), graph.load(house(), nodes=64)])


def test_sets_of_nodes(key):
    mask = jax.random.bernoulli(key, 0.2, (5, 96))
    packed = nodesets.pack(mask)
    assert packed.shape == (5, 3)
    assert (nodesets.unpack(packed) == mask).all()
    assert nodesets.first(packed).tolist() == [int(np.argmax(m)) for m in mask]
    lowest = nodesets.unpack(nodesets.lowest(packed))
    assert lowest.sum(-1).tolist() == [1] * 5
    assert np.argmax(lowest, -1).tolist() == nodesets.first(packed).tolist()
    empty = nodesets.pack(jnp.zeros(64, bool))
    assert int(nodesets.first(empty)) == -1
    assert not nodesets.lowest(empty).any()
    assert not nodesets.single(jnp.array(-1), 2).any()


def test_counting_edges_by_target(key):
    edges = jax.random.bernoulli(key, 0.05, (96, 96))
    counts = edges.sum(0)
    found = nodesets.unpack(nodesets.at_least(nodesets.pack(edges), 4))
    for k in range(4):
        assert (found[k] == (counts >= k + 1)).all()
