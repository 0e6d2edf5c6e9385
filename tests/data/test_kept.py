from jaxgen.data import kept, text
from jaxgen.data import translation as translation_data


def test_tokens_that_are_cut_off():
    # Pairs: the second is too long on one side, the third on both.
    got = kept.of_lengths([[3, 6, 9], [2, 2, 8]], [5, 4])
    assert got == kept.Kept(rows=3, cut=2, tokens=30, lost=1 + 4 + 4)
    assert kept.of_lengths([[]], [5]) == kept.Kept(0)


def test_the_line_of_a_report():
    parts = {"train": kept.Kept(200, 3, 1000, 42), "valid": kept.Kept(5), "test": kept.Kept(7)}
    assert kept.line(parts, {"blank texts": 1200, "others": 0}, of="pairs") == (
        "Cut: train 3 of 200 (1.5%) pairs and 42 of 1,000 (4.2%) tokens; none of valid, test. "
        "Left out: 1,200 blank texts.\n"
    )
    assert kept.line({"all": kept.Kept(1)}, {}) == "Cut: none of all. Left out: nothing.\n"


def test_loaders_count_what_they_leave_out(tmp_path):
    (tmp_path / "a").write_text("one two\n\nthree four five\n" + "x y\n" * 8)
    (tmp_path / "t").write_text("one two\nz z\n \n")
    with kept.tally() as counts:
        parts = text.load(
            "files", path=str(tmp_path), train=("a",), test=("t",), max_words=2, limit=4
        )
    assert counts == {
        "blank texts": 2,
        "texts of more than 2 words": 1,
        "texts beyond data.limit": 5,
        "test texts that are in train too": 1,
    }
    assert sum(map(len, parts.values())) == 4 + 1
    (tmp_path / "b").write_text("1\n2\n\n4\n")
    (tmp_path / "c").write_text("1\n\n\n4\n")
    with kept.tally() as counts:
        translation_data.read_pairs(tmp_path / "b", tmp_path / "c")
    assert counts == {"pairs with a blank side": 2}
    translation_data.read_pairs(tmp_path / "b", tmp_path / "c")  # nobody counts
    assert counts.total() == 2
