"""Data stays text: hostile strings in tables, paragraphs, headings, listings and pictures."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxgen.train import markup, plots, report, tables
from tests.pages import CASES, Page


@pytest.mark.parametrize(("text", "seen"), CASES.items())
def test_text_is_read_as_it_is_wherever_it_stands(text, seen, tmp_path):
    def page(md):
        return Page(markup.to_html(md, tmp_path))

    paragraph = page(f"{markup.literal(text)}\n\nData: {markup.literal(text)}.\n")
    assert paragraph.text == {"p": [seen, f"Data: {seen}."]}
    heading = page(f"## {markup.literal(text)}\n")
    assert heading.text == {"h2": [seen]}
    table = page(tables.markdown_table([text, "b"], [["x", text], [text, 1.5]]))
    assert table.tags == ["table", "thead", "tr", "th", "th", "tbody", *["tr", "td", "td"] * 2]
    assert table.text["th"] == [seen, "b"]
    assert table.text["td"] == ["x", seen, seen, "1.5"]
    lines = page(markup.listing([text, "last"]))
    assert lines.tags == ["pre", "code"]
    assert lines.text["code"] == [f"{seen}\nlast\n"]
    missing = page(markup.image(text, "samples/none.png") + "\n")
    assert missing.text["p"] == [f"{seen} (no picture samples/none.png)"]
    assert missing.tags == ["p", "span"]


def test_github_gets_entities_and_no_bare_addresses():
    """Numeric entities are never structure (CommonMark, section 2.5); addresses are links on GitHub alone."""
    assert markup.literal("<unk> a|b *c*") == "&#60;unk&#62; a&#124;b &#42;c&#42;"
    assert markup.literal("1. x") == "&#49;. x"
    assert markup.literal("-0.5 of 3 e.g. x") == "-0.5 of 3 e.g. x"
    assert markup.literal("https://a.b www.c.d") == "https&#58;//a.b www&#46;c.d"
    assert markup.literal("me@a.b") == "me@<!---->a.b"
    assert markup.cell("1. x") == "1. x"
    assert markup.cell(" x ") == "&#32;x&#32;"
    assert markup.listing(["a", "````"]) == "`````\na\n````\n`````\n"
    assert markup.image("a|b", "samples/a b(1).png") == "![a&#124;b](samples/a%20b%281%29.png)"
    assert markup.file_stem("VAE (beta 0.1)") == "VAE_beta_0.1"
    assert markup.file_stem('../a"b]') == ".._a_b_"


def test_raw_html_of_a_body_is_text_too(tmp_path):
    page = Page(markup.to_html("<script>alert(1)</script>\n\na <b>c</b>\n\n<div>\n", tmp_path))
    assert set(page.tags) == {"p"}
    assert page.text["p"] == ["<script>alert(1)</script>", "a <b>c</b>", "<div>"]


def test_only_the_workdirs_own_files_are_shown(tmp_path):
    folder = tmp_path / "w"
    (folder / "samples").mkdir(parents=True)
    for path in (folder / "samples" / "a b.png", tmp_path / "outside.png"):
        Image.new("L", (2, 2)).save(path)
    (folder / "fake.png").write_text("<svg onload=alert(1)>")
    (folder / "page.html").write_text("x")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")

    def page(md):
        return Page(markup.to_html(md, folder))

    shown = page(markup.image('a "quoted" name', "samples/a b.png"))
    assert shown.elements[1][1]["alt"] == 'a "quoted" name'
    assert shown.elements[1][1]["src"].startswith("data:image/png;base64,iVBOR")
    for path in (
        "../outside.png",
        "fake.png",
        "link.png",
        str(folder / "samples" / "a%20b.png"),
        "https://example.com/x.png",
        "//example.com/x.png",
        "data:image/png;base64,iVBOR",
        "file:///etc/passwd",
        "samples",
        "a%00b.png",
        "",
    ):
        assert page(f"![text]({path})").tags == ["p", "span"], path
    assert page("[page](page.html)").elements[1] == ("a", {"href": "page.html"})
    for target in ("javascript:alert(1)", "https://example.com", "../outside.png", "JAVASCRIPT:x"):
        found = page(f"[**see** this]({target}) end")
        assert "a" not in found.tags, target
        assert found.text["p"] == ["see this end"]
    assert "a" not in page("<https://example.com> [x][1]\n\n[1]: https://example.com").tags


def test_the_written_page_allows_nothing_but_itself(tmp_path):
    written = report.Report("a </title><b>", tmp_path)
    written.text("text <script>alert(1)</script>\n")
    path = written.write({})
    page = Page(path.read_text())
    assert page.text["title"] == ["a </title><b>"]
    assert not {"script", "b"} & set(page.tags)
    metas = [a for tag, a in page.elements if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    policy = metas[1]["content"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert policy[1].startswith("style-src 'sha256-")
    assert policy[2:] == ["img-src data:", "base-uri 'none'", "form-action 'none'"]
    assert metas[2] == {"name": "referrer", "content": "no-referrer"}


def test_a_missing_picture_does_not_end_the_report(tmp_path):
    written = report.Report("t", tmp_path)
    written.text(markup.image("lost", "samples/lost.png") + "\n")
    written.grid({"lost <b>": "samples/lost too.png", "there": "../outside.png"})
    text = written.write({}).read_text()
    assert "lost (no picture samples/lost.png)" in text
    assert "lost &lt;b&gt; (no picture samples/lost too.png)" in text
    assert "there (no picture ../outside.png)" in text


@pytest.fixture
def figures(monkeypatch):
    """What is saved while a test runs."""
    kept = []
    save = Figure.savefig

    def keep(figure, path, **options):
        kept.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def test_names_in_plots_are_text(tmp_path, figures):
    """matplotlib would set `$` as mathematics, raise where that is wrong, and hide a leading `_`."""
    names = ["$\\frac{", "_hidden", "nul \x00", "<unk>"]
    curves = {name: ([0, 1], [0, 1]) for name in names}
    plots.plot_panels(tmp_path / "x.png", {"$\\bad{": curves}, x="$x", y="a$b$")
    axes = figures[0].axes[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        *names[:2],
        "nul \\x00",
        "<unk>",
    ]
    assert axes.get_title() == "$\\bad{"
    with Image.open(tmp_path / "x.png") as image:
        assert image.size[0] > 100


def test_many_lines_have_a_colour_each_and_their_names_below(tmp_path, figures):
    curves = {f"_name {i}": ([0, 1], [0, i]) for i in range(12)}
    plots.plot_curves(tmp_path / "x.png", curves, x="x", y="y")
    (axes,) = figures[0].axes
    assert axes.get_legend() is None
    assert len({tuple(line.get_color()) for line in axes.lines}) == 12
    (legend,) = figures[0].legends
    assert [t.get_text() for t in legend.get_texts()] == list(curves)
