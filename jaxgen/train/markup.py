"""Markup of reports: text that comes from data stays text, in report.md and in report.html.

Data are sentences, generated text, labels, names and paths. Two things keep them from becoming markup:
`literal` writes every character that Markdown gives a meaning as a numeric entity, which CommonMark never
takes for structure; and `to_html` knows no raw HTML, and no link or picture but to files of the workdir.
"""

import base64
import hashlib
import html
import pathlib
import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import quote, unquote
from xml.etree.ElementTree import Element

_MARKUP = re.compile(r"[&<>|*_`\[\]\\#~$^]|:(?=//)|(?i:(?<=www)\.)|\A\s|\s\Z")
_LINE_START = re.compile(r"\A(?:[-+=](?=[-+=\s]|\Z)|\d+(?=[.)]))")  # lists, rules, underlines
_NO_LINK = "<!---->"  # GitHub makes a link of an address even where its @ is an entity
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, formats (direction), line ends
_JOINERS = "\u200c\u200d"  # formats, but parts of words and of emoji
_PNG = b"\x89PNG\r\n\x1a\n"
_PAGES = pathlib.Path(__file__).with_name("pages")


def visible(text: str) -> str:
    """Characters that cannot be seen or that move others (NUL, line ends, direction) as Python writes them."""
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in _HIDDEN and c not in _JOINERS
        else c
        for c in text
    )


def _entities(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(c)};" for c in match[0])


def cell(value: object) -> str:
    """`literal`, for where no line begins."""
    return _MARKUP.sub(_entities, visible(str(value))).replace("@", "@" + _NO_LINK)


def literal(value: object) -> str:
    """Markdown that reads as str(value) does: for data within a paragraph or a heading."""
    text = visible(str(value))
    start = _LINE_START.match(text)
    return _entities(start) + cell(text[start.end() :]) if start else cell(text)


def listing(texts: Sequence[str]) -> str:
    """A fenced block, one text a line; the fence is longer than any in the texts."""
    lines = [visible(text) for text in texts]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *lines, fence]) + "\n"


def image(text: str, path: str) -> str:
    """A picture of the workdir, or a line that says that it is missing.

    Args:
      path: relative to the workdir.
    """
    return f"![{cell(text)}]({quote(path)})"


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading; letters, digits, `_` and `-`."""
    return re.sub(r"[^\w\- ]", "", visible(title).lower()).replace(" ", "-")


def file_stem(name: str) -> str:
    """The name as a part of a file's name: letters, digits, `.`, `_` and `-`, without brackets."""
    return re.sub(r"[^\w.-]", "_", re.sub(r"[()]", "", visible(name)))[:100]


def to_html(text: str, folder: pathlib.Path) -> str:
    """Markdown as HTML without scripts, raw HTML or anything from elsewhere.

    Args:
      folder: what paths are relative to. PNG files in it become part of the page; a link or a picture of
        anything else stays text.
    """
    import markdown
    from markdown.treeprocessors import Treeprocessor

    class OwnFilesOnly(Treeprocessor):
        def run(self, root: Element) -> None:
            for element in root.iter():
                if element.tag == "img":
                    _inline(element, folder)
                elif element.tag == "a" and _own_file(element.get("href", ""), folder) is None:
                    _replace(element, element.text)

    writer = markdown.Markdown(extensions=["tables", "fenced_code"])
    writer.preprocessors.deregister("html_block")
    writer.inlinePatterns.deregister("html")
    writer.treeprocessors.register(OwnFilesOnly(writer), "own_files_only", 5)  # after inline markup
    return writer.convert(text.replace(_NO_LINK, ""))


def _own_file(url: str, folder: pathlib.Path) -> pathlib.Path | None:
    path = pathlib.PurePosixPath(unquote(url))
    if ":" in url or "\0" in str(path) or path.is_absolute():
        return None
    found = (folder / path).resolve()
    return found if found.is_relative_to(folder.resolve()) and found.is_file() else None


def _inline(element: Element, folder: pathlib.Path) -> None:
    source = element.get("src", "")
    data = _data_url(source, folder)
    if data is None:
        _replace(element, _missing(element.get("alt", ""), source))
    else:
        element.set("src", data)


def _data_url(url: str, folder: pathlib.Path) -> str | None:
    path = _own_file(url, folder)
    data = b"" if path is None else path.read_bytes()
    if not data.startswith(_PNG):
        return None
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _missing(text: str, url: str) -> str:
    return f"{text} (no picture {unquote(url)})"


def figure(text: str, path: str, folder: pathlib.Path) -> str:
    """HTML of `image` with its text below; a missing picture is a line that says so."""
    data, name = _data_url(quote(path), folder), html.escape(visible(text))
    if data is None:
        return f"<p>{html.escape(_missing(visible(text), quote(path)))}</p>"
    return f'<figure><img alt="{name}" src="{data}"><figcaption>{name}</figcaption></figure>'


def _replace(element: Element, text: str | None) -> None:
    """Leaves nothing of an element but its text, what stands in it and what follows it."""
    element.tag, element.text = "span", text
    element.attrib.clear()


def asset(name: str) -> str:
    """Text of a file of `pages/`: styles, markup and scripts that data never enter."""
    return (_PAGES / name).read_text(encoding="utf-8")


def page(title: str, body: str, *, style: str, script: str = "") -> str:
    """An HTML page that runs `script` alone and loads nothing.

    Args:
      body: HTML.
      script: without `</`; it comes after the body.
    """

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    policy = f"default-src 'none'; style-src {allowed(style)}; img-src data:"
    if script:
        policy += f"; script-src {allowed(script)}"
    policy += "; base-uri 'none'; form-action 'none'"
    end = f"<script>{script}</script>" if script else ""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{policy}">'
        "<meta name=referrer content=no-referrer>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(visible(title))}</title><style>{style}</style></head>"
        f"<body>{body}{end}</body></html>\n"
    )
