"""Templates of sentences: function words stay, every run of other words becomes one blank.

    "the food was really good ."  ->  "the <blank> was <blank> .",  ["food", "really good"]

Texts are words split by spaces.
"""

import re
from collections.abc import Collection, Sequence

from jaxgen.errors import require

BLANK = "<blank>"
# Articles, pronouns, prepositions, conjunctions, auxiliaries, a few adverbs, punctuation and numbers.
_WORDS = """
a an the this that these those there here it its i me my we us our you your he him his she her they them their
who what which when where how of in on at to from for with without by about as into over after before than
and or but if so because while not n't no nor
is are was were be been am 's 're 've 'm 'll 'd do does did has have had
can could will would should may might must
all any some each every both more most very too also just only out up down off again then
, . ! ? ; : ' " ( ) - -- ... _num_
"""
FUNCTION_WORDS = frozenset(_WORDS.split())


def make(text: str, *, keep: Collection[str] = FUNCTION_WORDS) -> tuple[str, list[str]]:
    """The template of a text, and what its blanks hold.

    Args:
      keep: the words that stay.

    Raises:
      ValueError: a text that holds `BLANK` already.
    """
    words = text.split()
    require("text", BLANK not in words, text, f"words other than {BLANK}")
    template: list[str] = []
    fills: list[list[str]] = []
    for word in words:
        if word in keep:
            template.append(word)
        elif template and template[-1] == BLANK:
            fills[-1].append(word)
        else:
            template.append(BLANK)
            fills.append([word])
    return " ".join(template), [" ".join(fill) for fill in fills]


def fill(template: str, fills: Sequence[str]) -> str:
    """The text of a template with its blanks filled.

    Raises:
      ValueError: another number of fills than of blanks.
    """
    count = template.split().count(BLANK)
    require("fills", len(fills) == count, len(fills), f"{count}, one for each blank")
    rest = iter(fills)
    return " ".join(next(rest) if word == BLANK else word for word in template.split())


def split(template: str, text: str, *, most: int = 4) -> list[str] | None:
    """What a text puts into a template's blanks; None where it does not keep the template.

    All kept words in their order, and 1 to `most` words in each blank. Where that can be done in several
    ways, early blanks hold as little as can be.

    Raises:
      ValueError: a template without a blank.

    >>> split("the <blank> was <blank> .", "the food was really good .")
    ['food', 'really good']
    """
    words = template.split()
    require("blanks of the template", BLANK in words, words.count(BLANK), "at least 1")
    blank = rf"(\S+(?: \S+){{0,{most - 1}}}?)"
    pattern = " ".join(blank if word == BLANK else re.escape(word) for word in words)
    found = re.fullmatch(pattern, " ".join(text.split()))
    return list(found.groups()) if found else None
