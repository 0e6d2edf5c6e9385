"""Small worlds of our own."""

import jax


def same(a, b):
    """Whether two worlds are equal to the bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(bool((x == y).all()) for x, y in pairs)


def house(*extra, states=(), edges=()):
    """A dining room and a bedroom, a door between them, and a few things; `extra` nodes are (id, class, properties)."""
    nodes = [
        (1, "dining_room", "Rooms", ""),
        (2, "bedroom", "Rooms", ""),
        (3, "character", "Characters", ""),
        (4, "door", "Doors", "CAN_OPEN"),
        (5, "fridge", "Furniture", "CAN_OPEN CONTAINERS HAS_PLUG HAS_SWITCH"),
        (6, "table", "Furniture", "MOVABLE SURFACES"),
        (7, "cup", "Props", "GRABBABLE MOVABLE POURABLE RECIPIENT"),
        (8, "bed", "Furniture", "LIEABLE SITTABLE SURFACES"),
        (9, "book", "Props", "CAN_OPEN GRABBABLE READABLE"),
        *((i, c, "Props", p) for i, c, p in extra),
    ]
    now = {4: ["OPEN"], 5: ["CLOSED", "OFF", "PLUGGED_IN"], 9: ["CLOSED"]} | dict(states)
    links = [
        *((3, "INSIDE", 1), (4, "BETWEEN", 1), (4, "BETWEEN", 2), (4, "INSIDE", 1)),
        *((5, "INSIDE", 1), (6, "INSIDE", 1), (7, "INSIDE", 1), (7, "ON", 6), (7, "CLOSE", 6)),
        *((6, "CLOSE", 7), (8, "INSIDE", 2), (9, "INSIDE", 2), (9, "ON", 8)),
        *((i, "INSIDE", 1) for i, _, _ in extra),
        *edges,
    ]
    return {
        "nodes": [
            {
                "id": i,
                "class_name": c,
                "category": g,
                "properties": p.split(),
                "states": now.get(i, []),
            }
            for i, c, g, p in nodes
        ],
        "edges": [{"from_id": a, "relation_type": r, "to_id": b} for a, r, b in links],
    }
