"""The rule baseline of content manipulation: put a record's values where the reference states its own.

Tuples of the record are assigned to tuples of the reference's record of the same type, at the lowest total cost
(Hungarian method), and values change places. What is left over on either side stays unsaid, or as it was.
Source: Wang et al. (2019), arXiv:1901.09501, section 4.
"""

from collections.abc import Sequence

import numpy as np

from jaxgen.data.style_records import Fact

NEVER = 1e6  # cost of a pair of different types, above any sum of others


def align(x: Sequence[Fact], x_ref: Sequence[Fact]) -> list[tuple[int, int]]:
    """(i, j): tuple i of x takes the place of tuple j of x_ref, of the same type.

    A pair costs |a - b| for numbers and 0 or 1 for other values; ties go to the first tuples.
    """
    from scipy.optimize import linear_sum_assignment

    if not x or not x_ref:
        return []
    cost = np.array([[_cost(a, b) for b in x_ref] for a in x], np.float64)
    rows, columns = linear_sum_assignment(cost)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(i, j) for i, j in pairs if x[i].type == x_ref[j].type]


def _cost(a: Fact, b: Fact) -> float:
    if a.type != b.type:
        return NEVER
    if a.value.isdecimal() and b.value.isdecimal():
        return min(float(abs(int(a.value) - int(b.value))), NEVER / 100)
    return float(a.value != b.value)


def rewrite(x: Sequence[Fact], x_ref: Sequence[Fact], reference: str) -> str:
    """The reference with the values of x in the places of those of x_ref.

    A number is put at the first place of the old one that no other took; any other value at all its places.
    Places are found in the reference as it was, so that no new value is taken for an old one. A reference that
    lacks a value of its record keeps its words.

    Args:
      reference: states x_ref; words split by spaces.

    >>> score = lambda a, b: [Fact("TEAM-WINS", a, "Heat"), Fact("TEAM-LOSSES", b, "Heat")]
    >>> rewrite(score("5", "4"), score("4", "7"), "4 - 7")
    '5 - 4'
    """
    old = reference.split()
    new, free = list(old), [True] * len(old)
    # In the order of the reference's record, which is that of its words where both name one number.
    for i, j in sorted(align(x, x_ref), key=lambda pair: pair[1]):
        value = x_ref[j].value
        places = [k for k, word in enumerate(old) if word == value and free[k]]
        for k in places[:1] if value.isdecimal() else places:
            new[k], free[k] = x[i].value, False
    return " ".join(new)


def mark(kind: str) -> str:
    """The word that stands for a value of a type.

    >>> mark("PLAYER-PTS")
    '<PLAYER-PTS>'
    """
    return f"<{kind}>"


def without_values(x_ref: Sequence[Fact], reference: str) -> str:
    """The reference with the mark of its type for each value of its record: nothing of them can be copied then.

    A word that is the value of several tuples has the mark of the first one that no other place took; of names,
    which may stand at many places, always of the first.

    >>> without_values([Fact("PLAYER_NAME", "Ann", "Ann"), Fact("PLAYER-PTS", "5", "Ann")], "Ann had 5 .")
    '<PLAYER_NAME> had <PLAYER-PTS> .'
    """
    left: dict[str, list[str]] = {}
    for fact in x_ref:
        left.setdefault(fact.value, []).append(mark(fact.type))
    words = []
    for word in reference.split():
        kinds = left.get(word, [word])
        words.append(kinds.pop(0) if len(kinds) > 1 else kinds[0])
    return " ".join(words)
