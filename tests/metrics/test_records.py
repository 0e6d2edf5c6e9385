"""Content and style of sentences: the extractor, its scores, masked BLEU, and the rule baseline."""

import math
import os
import pathlib

import pytest

from jaxgen.data import style_records
from jaxgen.data.style_records import Fact
from jaxgen.metrics import box_score, records
from jaxgen.metrics.records import MASK, Names
from jaxgen.text import templates

NBA = pathlib.Path(os.environ.get("JAXGEN_DATA", "../shared/data")) / "rotowire_style"
NAMES = Names(
    {
        **dict.fromkeys(("Ann_Lee", "Lee", "Bo"), "PLAYER"),
        **dict.fromkeys(("Miami_Heat", "Miami", "Heat", "Utah_Jazz", "Jazz"), "TEAM"),
    }
)


def facts(text):
    """ "PLAYER-PTS 5 Bo; ..." """
    return frozenset(Fact(*part.split()) for part in text.split(";") if part.strip())


@pytest.mark.parametrize(
    ("sentence", "record"),
    [
        (
            "The Miami_Heat ( 5 - 4 ) beat the Jazz ( 2 - 6 ) 98 - 92 on Friday .",
            "TEAM-WINS 5 Miami_Heat; TEAM-LOSSES 4 Miami_Heat; TEAM-WINS 2 Jazz; TEAM-LOSSES 6 Jazz;"
            "TEAM-PTS 98 Miami_Heat; TEAM-PTS 92 Jazz",
        ),
        (
            "Ann_Lee had 20 points ( 7 - 12 FG , 2 - 5 3Pt , 4 - 4 FT ) and 8 rebounds in 30 minutes .",
            "PLAYER-PTS 20 Ann_Lee; PLAYER-FGM 7 Ann_Lee; PLAYER-FGA 12 Ann_Lee; PLAYER-FG3M 2 Ann_Lee;"
            "PLAYER-FG3A 5 Ann_Lee; PLAYER-FTM 4 Ann_Lee; PLAYER-FTA 4 Ann_Lee; PLAYER-REB 8 Ann_Lee;"
            "PLAYER-MIN 30 Ann_Lee",
        ),
        (
            "Bo shot 3 - for - 9 from behind the arc , with 1 steal , 2 blocks and 6 assists for Miami .",
            "PLAYER-FG3M 3 Bo; PLAYER-FG3A 9 Bo; PLAYER-STL 1 Bo; PLAYER-BLK 2 Bo; PLAYER-AST 6 Bo",
        ),
        (
            "Bo made 5 - of - 7 and 4 three - pointers , while Lee had 11 boards , 3 turnovers and 2 fouls .",
            "PLAYER-FGM 5 Bo; PLAYER-FGA 7 Bo; PLAYER-FG3M 4 Bo; PLAYER-REB 11 Lee; PLAYER-TO 3 Lee;"
            "PLAYER-PF 2 Lee",
        ),
        (
            "The Heat shot 46 percent from the field and 30 percent from deep , with 12 turnovers .",
            "TEAM-FG_PCT 46 Heat; TEAM-FG3_PCT 30 Heat; TEAM-TOV 12 Heat",
        ),
        ("With a double - double , 13 points and 10 assists , came Lee .", "PLAYER-PTS 13 Lee; PLAYER-AST 10 Lee"),
        ("Bo , who had 5 , in 12 games , won by 3 .", ""),  # the word is behind a comma, or none
        ("He had 5 points and 3 - 4 FG .", ""),  # nobody is named
        ("", ""),
    ],
)  # fmt: skip
def test_the_rules_read_the_record_of_a_sentence(sentence, record):
    assert box_score.extract(sentence.split(), NAMES) == facts(record)


def test_names_that_mean_one_team_or_player():
    for a, b in (("Miami", "Heat"), ("Heat", "Miami_Heat"), ("Lee", "Ann_Lee"), ("Bo", "Bo")):
        assert NAMES.same(a, b)
        assert NAMES.same(b, a)
    for a, b in (("Heat", "Jazz"), ("Miami", "Utah_Jazz"), ("Bo", "Lee"), ("An", "Ann_Lee")):
        assert not NAMES.same(a, b)
    train = [facts("PLAYER_NAME Bo Bo; TEAM_NAME Heat Heat; TEAM-PTS 98 Heat"), facts("name Bo Bo")]
    assert Names.of([train[0], train[0], train[1]]).classes == {"Bo": "PLAYER", "Heat": "TEAM"}
    assert Names.of(train[1:]).classes == {"Bo": "name"}


def test_scores_are_micro_averages_of_numbers():
    gold = [
        facts("PLAYER-PTS 5 Lee; PLAYER-REB 4 Lee; PLAYER_NAME Lee Lee"),
        facts("PLAYER-PTS 9 Bo"),
    ]
    found = [
        facts("PLAYER-PTS 5 Ann_Lee; PLAYER-REB 3 Lee; PLAYER_NAME Lee Lee"),
        facts("PLAYER-PTS 9 Lee; PLAYER-AST 1 Bo"),
    ]
    got = records.score(found, gold, NAMES)
    assert got == (100 / 4, 100 / 3)
    assert got.f1 == pytest.approx(2 * 25 * (100 / 3) / (25 + 100 / 3))
    assert records.score(found, gold, NAMES, owners=False) == (100 * 2 / 4, 100 * 2 / 3)
    assert records.score(found, gold, NAMES, numbers_only=False) == (100 * 2 / 5, 100 * 2 / 4)
    none = records.score([()], [()], NAMES)
    assert math.isnan(none.precision)
    assert math.isnan(none.recall)
    assert records.PrecisionRecall(0.0, 0.0).f1 == 0.0
    with pytest.raises(ValueError, match="shorter"):
        records.score(found, gold[:1], NAMES)


def test_scores_of_values_alone():
    gold = [facts("PLAYER-PTS 5 Lee; PLAYER_NAME Lee Lee"), facts("PLAYER-PTS 9 Bo")]
    said = ["Lee had 5 or 9 or 7", "7 of 5"]
    assert records.score_values(said, gold) == (100 * 2 / 4, 100 * 2 / 3)
    assert records.score_values(said, gold, str.isdigit) == (100 * 1 / 5, 100 * 2 / 3)


def test_masks_stand_for_one_token_each():
    text = ["He", "passed", "Ann_Lee", "twenty", "times", ",", "THEIR", "5", "-", "4", "Heat", "."]
    masked = records.mask_values(text, NAMES.classes)
    assert masked == [MASK, "passed", MASK, MASK, "times", ",", MASK, MASK, "-", MASK, MASK, "."]
    assert len(masked) == len(text)


def test_masked_bleu_forgives_other_values():
    references = ["Bo had 5 points and 4 rebounds .", "The Heat won ."]
    assert records.masked_bleu(references, references, NAMES.classes) == pytest.approx(100.0)
    others = ["Lee had 50 points and 3 rebounds .", "THE Jazz won ."]
    assert records.masked_bleu(others, references, NAMES.classes) == pytest.approx(100.0)
    assert records.masked_bleu(["Bo sat ."] * 2, references, NAMES.classes) < 50
    assert math.isnan(records.masked_bleu([], [], NAMES.classes))


def listed(text):
    return tuple(Fact(*part.split()) for part in text.split(";"))


def test_the_rule_baseline_is_exact_where_types_match():
    x = listed("PLAYER_NAME Lee Lee; PLAYER-PTS 7 Lee; PLAYER-REB 5 Lee")
    ref = listed("PLAYER_NAME Bo Bo; PLAYER-REB 7 Bo; PLAYER-PTS 5 Bo")
    got = templates.rewrite(x, ref, "Bo had 5 points , and Bo had 7 rebounds and 5 fouls .")
    assert got == "Lee had 7 points , and Lee had 5 rebounds and 5 fouls ."
    assert templates.rewrite(ref, ref, "Bo had 5 .") == "Bo had 5 ."


def test_the_rule_baseline_does_not_replace_twice():
    x, ref = (
        listed("TEAM-WINS 5 Heat; TEAM-LOSSES 4 Heat"),
        listed("TEAM-WINS 4 Jazz; TEAM-LOSSES 7 Jazz"),
    )
    assert templates.rewrite(x, ref, "4 - 7") == "5 - 4"


def test_numbers_of_one_type_go_to_the_nearest():
    x = listed("PLAYER-PTS 9 Bo; PLAYER-PTS 30 Lee; PLAYER-PTS 1 Al")
    ref = listed("PLAYER-PTS 31 Jo; PLAYER-PTS 10 Cy")
    assert templates.align(x, ref) == [(0, 1), (1, 0)]
    assert templates.rewrite(x, ref, "31 and 10") == "30 and 9"
    assert templates.align((), ref) == []
    assert templates.rewrite(listed("PLAYER-AST 9 Bo"), ref, "31 and 10") == "31 and 10"


def test_a_reference_that_lacks_its_values_keeps_its_words():
    x, ref = listed("PLAYER_NAME Lee Lee"), listed("PLAYER_NAME Bo Bo")
    assert templates.rewrite(x, ref, "He won .") == "He won ."


def test_two_tuples_with_one_number_take_two_places():
    x = listed("PLAYER-REB 8 Lee; PLAYER-AST 9 Lee")
    ref = listed("PLAYER-REB 7 Bo; PLAYER-AST 7 Bo")
    assert templates.rewrite(x, ref, "7 rebounds and 7 assists") == "8 rebounds and 9 assists"
    assert templates.rewrite(x, ref, "7 of each") == "8 of each"


# Precision and recall by the rules: with owners, and without; and m-BLEU.
CEILINGS = {
    "gold": ((83.0, 71.1), (86.4, 76.1), 22.35),
    "rule": ((63.2, 61.5), (75.2, 74.7), 99.95),
    "copy": ((1.8, 1.8), (27.0, 27.1), 100.0),
}


@pytest.mark.slow
@pytest.mark.skipif(not NBA.is_dir(), reason=f"no {NBA}; JAXGEN_DATA says where data lies")
def test_ceilings_and_floors_on_the_nba_test_split():
    train, test = (style_records.read_parallel(NBA / part, part) for part in ("train", "test"))
    names = Names.of(train.x)
    ruled = [templates.rewrite(*row) for row in zip(test.x, test.x_ref, test.y_ref, strict=True)]
    aligned = sum(len(templates.align(*row)) for row in zip(test.x, test.x_ref, strict=True))
    assert aligned / sum(map(len, test.x)) == pytest.approx(0.960, abs=0.001)
    assert aligned / sum(map(len, test.x_ref)) == pytest.approx(0.833, abs=0.001)
    texts = {"gold": test.y_aux, "rule": ruled, "copy": test.y_ref}
    for system, (with_owners, without, style) in CEILINGS.items():
        found = [box_score.extract(t.split(), names) for t in texts[system]]
        got = records.score(found, test.x, names)
        assert got == pytest.approx(with_owners, abs=3.0), system
        got = records.score(found, test.x, names, owners=False)
        assert got == pytest.approx(without, abs=3.0), system
        m_bleu = records.masked_bleu(texts[system], test.y_ref, names.classes)
        assert m_bleu == pytest.approx(style, abs=0.1), system

    def is_content(word):
        return records.is_number(word) or word in names.classes

    for system, values in {"gold": (87.8, 100.0), "rule": (77.1, 96.3)}.items():
        got = records.score_values(texts[system], test.x, is_content)
        assert got == pytest.approx(values, abs=0.1), system


def test_marks_take_the_places_of_values():
    ref = listed("PLAYER_NAME Bo Bo; PLAYER-REB 7 Bo; PLAYER-AST 7 Bo")
    got = templates.without_values(ref, "Bo had 7 boards , 7 dimes and 7 fouls , said Bo .")
    assert got == (
        "<PLAYER_NAME> had <PLAYER-REB> boards , <PLAYER-AST> dimes and <PLAYER-AST> fouls ,"
        " said <PLAYER_NAME> ."
    )
    assert templates.without_values((), "7 of 9") == "7 of 9"


def test_numbers_said_more_often_than_the_record_has_them():
    gold = [facts("PLAYER-REB 7 Bo; PLAYER-AST 7 Bo; PLAYER-PTS 9 Bo; PLAYER_NAME Bo Bo")] * 3
    said = ["Bo had 7 and 7 and 9", "Bo had 9 and 9 , Bo", "7 7 7 9 9 5 5"]
    assert records.said_too_often(said, gold) == pytest.approx(100 * 3 / 6)
    assert math.isnan(records.said_too_often(["Bo"], [facts("PLAYER_NAME Bo Bo")]))
    of_all = records.said_too_often(["Bo had 9 , Bo", *said[1:]], gold, lambda _: True)
    assert of_all == pytest.approx(100 * 5 / 9)
