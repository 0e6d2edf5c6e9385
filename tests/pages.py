"""Hostile text and a reader of pages, for tests of reports."""

import html.parser

HOSTILE = [
    "good food <script>document.title='PWNED'</script>",
    'a <img src="photo.png" onerror="alert(1)"> b',
    "<iframe src=https://example.com></iframe><!-- <b>",
    "see [here](javascript:alert(3)) and [there][x]",
    "![x](https://example.com/x.png) ![y](data:text/html,<b>)",
    "<https://example.com> <me@example.com> https://example.com www.example.com me@example.com",
    "a <unk> b </s> <pad>",
    "salt | pepper \\| more \\",
    "*a* _b_ __c__ `d` ``e`` ~~f~~ $g$",
    "&lt;b&gt; &amp; &#60;i&#62; &copy &nbsp;",
    "# heading",
    "> quote",
    "1. one",
    "2) two",
    "- item",
    "+ item",
    "---",
    "===",
    "| a | b |",
    "```",
    "[x]: javascript:alert(1)",
    "    code",
    'x" onload="alert(1)',
    "\\*not\\* \\n",
    "w" * 500,
    "zur\u00fcck \u5b57 \u0627\u0644 \U0001f469\u200d\U0001f52c caf\u00e9",
]
INVISIBLE = {
    "one\ntwo\r\nthree": r"one\ntwo\r\nthree",
    "a\u2028b\u2029c\x85d\x0ce": r"a\u2028b\u2029c\x85d\x0ce",
    "nul \x00 bell \x07": r"nul \x00 bell \x07",
    "left \u202eright\u202c \u2066x\u2069": r"left \u202eright\u202c \u2066x\u2069",
    "zero\u200bwidth \ufeffmark": r"zero\u200bwidth \ufeffmark",
    "half \ud800 a pair": r"half \ud800 a pair",
    "\x02wzxhzdk:0\x03": r"\x02wzxhzdk:0\x03",
}
CASES = {text: text for text in HOSTILE} | INVISIBLE


class Page(html.parser.HTMLParser):
    """Elements with their attributes, and the text below each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "br", "hr"):
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in set(self.open):
            self.text[tag][-1] += data

    @property
    def tags(self):
        return [tag for tag, _ in self.elements]

    @property
    def rows(self):
        """How many cells each row of each table has: [[3, 3], [2, 2, 2]]."""
        tables = []
        for tag in self.tags:
            if tag == "table":
                tables.append([])
            elif tag == "tr":
                tables[-1].append(0)
            elif tag in ("td", "th"):
                tables[-1][-1] += 1
        return tables

    def alive(self, *, links=()):
        """What could run, load or lead elsewhere, links to these files excepted; [] of a safe page."""
        wrong = [
            t for t in self.tags if t in ("script", "iframe", "object", "embed", "svg", "base")
        ]
        # The contents list leads to headings of the page itself, which loads nothing.
        anchors = [f"#{a['id']}" for t, a in self.elements if t == "h2" and "id" in a]
        for tag, attributes in self.elements:
            for name, value in attributes.items():
                picture = tag == "img" and name == "src" and value.startswith("data:image/png;")
                own = tag == "a" and name == "href" and value in (*links, *anchors)
                leads = name in ("src", "href", "action", "srcset") and not (picture or own)
                if leads or name == "style" or name.startswith("on"):
                    wrong.append((tag, name, value))
        return wrong
