"""What mkdocs asks of us: API pages from the source tree, notebooks as pages, equations as MathML.

Nothing here imports jaxgen or jax: packages are read, not run.
"""

import ast
import json
import pathlib
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "jaxgen"
# In the order of the imports, from the science up; packages that are not named here come last.
ORDER = (
    *(
        "diffusion",
        "latent_ode",
        "losses",
        "moe",
        "moe.placement",
        "peft",
        "constraints",
        "world",
        "text",
        "nn",
    ),
    *("models", "data", "metrics", "evaluators", "train"),
)

Symbols = dict[str, list[str]]  # module -> names of its public functions and classes


def modules(root: pathlib.Path = ROOT) -> Symbols:
    """Every public module below `jaxgen`, with its public functions and classes that have a docstring."""
    found: Symbols = {}
    for file in sorted((root / PACKAGE).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if any(part.startswith("_") for part in parts):
            continue
        found[".".join(parts)] = list(_public(ast.parse(file.read_text(encoding="utf-8"))))
    return found


def _public(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        defined = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if defined and not node.name.startswith("_") and ast.get_docstring(node):
            yield node.name


def packages(root: pathlib.Path = ROOT) -> dict[str, list[str]]:
    """Package -> its modules; `jaxgen` itself holds those that lie directly in it."""
    folders = {
        ".".join(f.relative_to(root).parts[:-1]) for f in (root / PACKAGE).rglob("__init__.py")
    }
    out: dict[str, list[str]] = {package: [] for package in folders}
    for module in modules(root):
        if module not in folders:
            out[module.rpartition(".")[0]].append(module)
    place = {f"{PACKAGE}.{name}": i for i, name in enumerate(ORDER)}
    return dict(sorted(out.items(), key=lambda item: (place.get(item[0], len(ORDER)), item[0])))


def page_of(package: str) -> str:
    """Where the API page of a package is, relative to the docs folder."""
    return f"api/{package.removeprefix(PACKAGE).lstrip('.') or 'core'}.md"


def api_pages(root: pathlib.Path = ROOT) -> dict[str, str]:
    """Path -> Markdown of the page of each package."""
    pages = {}
    known = modules(root)
    for package, own in packages(root).items():
        blocks = [f"::: {package}\n    options:\n      heading_level: 1\n      members: "]
        blocks[0] += json.dumps(known.get(package, [])) if known.get(package) else "false"
        pages[page_of(package)] = (
            "\n\n".join([*blocks, *(f"::: {module}" for module in own)]) + "\n"
        )
    return pages


def target(name: str, known: Symbols) -> str | None:
    """The full name of what a text calls `name`: a module, or a function or class.

    A package's own modules may be left out: `jaxgen.losses.eisl_loss`. Of what follows a class nothing
    is checked.
    """
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        module = ".".join(parts[:size])
        if module in known:
            break
    else:
        return None
    if size == len(parts):
        return module
    homes = [module, *(m for m in known if m.rpartition(".")[0] == module)]
    for home in homes:
        if parts[size] in known[home]:
            return f"{home}.{parts[size]}"
    return None


def notebook_page(path: pathlib.Path) -> str:
    """A notebook as Markdown; notebooks are committed without output."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    out = []
    for cell in cells:
        source = "".join(cell["source"]).strip()
        out.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    note = f"Run it: `jupyter lab notebooks/{path.name}` (extra `notebooks`)."
    out.insert(1, note)
    return "\n\n".join(out) + "\n"


def repository(root: pathlib.Path = ROOT) -> str:
    """`Repository` of pyproject's [project.urls]; "" until it is filled in."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


# What follows is called by mkdocs.


def on_config(config: Any) -> Any:
    """The repository's address, and the API pages in the navigation."""
    if repository():
        config.repo_url = repository()
    for section in config.nav:
        if "API" in section:
            section["API"] = [{p: page_of(p)} for p in packages()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that no file of the docs folder holds."""
    from mkdocs.structure.files import File

    pages = dict(api_pages())
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook_page(path)
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Names of jaxgen in code font lead to their place in the API pages."""
    known = modules()

    def link(match: re.Match[str]) -> str:
        found = target(match[1], known)
        return f"[{match[0]}][{found}]" if found else match[0]

    if page.file.src_uri.startswith("api/"):
        return markdown
    parts = re.split(r"(^```.*?^```[^\n]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    pattern = rf"(?<![\[`])`({PACKAGE}(?:\.\w+)+)`(?![\]`])"
    parts[::2] = [re.sub(pattern, link, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Equations as MathML, which browsers draw by themselves: no script and no font is loaded."""
    html = re.sub(r"(?<=\d) ± (?=\d)", "&nbsp;±&nbsp;", html)
    return re.sub(
        r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', _mathml, html, flags=re.DOTALL
    )


def _mathml(match: re.Match[str]) -> str:
    from html import unescape

    from latex2mathml.converter import convert

    display = "block" if match[1] == "div" else "inline"
    math = convert(unescape(match[2]).strip(), display=display)
    math = re.sub(r'<mi mathvariant="script">([A-Z])</mi>', _script, math)
    # A norm's bars would stretch over limits of a sum beside it.
    math = math.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')
    return f'<{match[1]} class="math">{math}</{match[1]}>'


def _script(match: re.Match[str]) -> str:
    """Browsers know script letters as characters alone."""
    try:
        letter = unicodedata.lookup(f"MATHEMATICAL SCRIPT CAPITAL {match[1]}")
    except KeyError:
        letter = unicodedata.lookup(f"SCRIPT CAPITAL {match[1]}")
    return f"<mi>{letter}</mi>"
