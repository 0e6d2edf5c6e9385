"""The documentation against the tree: every public symbol has a page, and nothing is named that is not there."""

import ast
import importlib.util
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load(DOCS / "hooks.py")
KNOWN = hooks.modules()
PAGES = {
    str(p.relative_to(ROOT)): p.read_text(encoding="utf-8")
    for p in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
}
GENERATED = {
    **hooks.api_pages(),
    **{f"notebooks/{p.stem}.md": "" for p in (ROOT / "notebooks").glob("*.ipynb")},
}


def is_there(name):
    """A module, a function or class, or a constant of a module."""
    module, _, last = name.rpartition(".")
    if hooks.target(name, KNOWN):
        return True
    file = ROOT / (module.replace(".", "/") + ".py")
    assigned = rf"^{last}\b.*?="
    return file.is_file() and re.search(assigned, file.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_public_symbol_has_an_api_page():
    pages = "\n".join(hooks.api_pages().values())
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    count = 0
    # Read here once more, so that a module which the hook overlooks is missed.
    for file in sorted((ROOT / "jaxgen").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        module = ".".join(p for p in parts if p != "__init__")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            defined = isinstance(node, ast.FunctionDef | ast.ClassDef)
            private = any(
                p.startswith("_") for p in (*module.split("."), getattr(node, "name", ""))
            )
            if defined and not private and ast.get_docstring(node):
                assert module in shown, f"{module}.{node.name} has no API page"
                count += 1
    assert count > 300
    assert all(module in KNOWN for module in shown), shown - KNOWN.keys()


def test_every_package_has_its_page_in_the_navigation():
    class Config:
        nav = [{"Home": "index.md"}, {"API": []}]  # noqa: RUF012
        repo_url = None

    (section,) = [s["API"] for s in hooks.on_config(Config()).nav if "API" in s]
    assert {page for entry in section for page in entry.values()} == set(hooks.api_pages())
    assert len({name for entry in section for name in entry}) == len(section)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    text = PAGES[page]
    for name in set(re.findall(r"\bjaxgen(?:\.[A-Za-z_]\w*)+", text)):
        assert is_there(name), f"{name} is not in jaxgen"
    for module, names in re.findall(r"^from (jaxgen[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
        for name in names.split(", "):
            assert is_there(f"{module}.{name.split(' as ')[0]}"), f"{module}.{name} is not there"
    for path in set(
        re.findall(r"`((?:jaxgen|tests|experiments|configs|benchmarks)/[^\s`]*)`", text)
    ):
        place, *test = path.split("::")
        assert "NAME" in place or (ROOT / place).exists(), f"{path} is not there"
        if test:
            source = (ROOT / place).read_text(encoding="utf-8")
            assert f"def {test[0]}(" in source, f"{path} is no test"


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_modules_and_configs_that_exist(page):
    text = PAGES[page]
    for module in set(re.findall(r"python -m ((?:experiments|jaxgen|benchmarks)[\w.]*)", text)):
        place = ROOT / module.replace(".", "/")
        there = place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
        assert "NAME" in module or there, f"{module} is no module to run"
    for file in set(re.findall(r"--config=(\S+?\.py)\b", text)):
        assert (ROOT / file).is_file(), f"{file} is not there"
    for file in set(re.findall(r"python ((?:benchmarks|notebooks)/\S+?\.py)\b", text)):
        assert (ROOT / file).is_file(), f"{file} is not there"


def fields(config, prefix=""):
    for key, value in config.items():
        yield f"{prefix}{key}"
        if hasattr(value, "items"):
            yield from fields(value, f"{prefix}{key}.")


@pytest.mark.parametrize("page", PAGES)
def test_fields_of_commands_are_in_their_config(page):
    commands = re.findall(r"python -m experiments(?:[^\n]*\\\n)*[^\n]*", PAGES[page])
    for command in commands:
        file = re.search(r"--config=(configs/\S+?\.py)\b", command)
        if file and (ROOT / file[1]).is_file():
            known = set(fields(load(ROOT / file[1]).get_config()))
            for field in re.findall(r"--config\.([\w.]+)=", command):
                assert field in known, f"{file[1]} has no {field}"


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    here = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = link.partition("#")
        if "://" in place or not place:
            continue
        target = (here / place).resolve()
        inside = target.is_relative_to(DOCS) and str(target.relative_to(DOCS)) in GENERATED
        assert inside or target.exists(), f"{page}: {link}"
        if anchor and target.suffix == ".md" and not inside:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page}: {link}"


def test_readme_is_short_and_keeps_its_marked_commands():
    text = PAGES["README.md"]
    assert len(text.splitlines()) < 200
    for marker in ("main command", "test command"):
        assert re.search(rf"^<!-- {marker} -->\n```\n.+\n```$", text, re.MULTILINE)


def test_notebooks_install_from_the_repository_of_pyproject():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        first = "".join(next(c for c in cells if c["cell_type"] == "code")["source"])
        told = f'REPOSITORY = "{hooks.repository()}"'
        assert told in first, f"{path.name}: run `python notebooks/set_repository.py`"
        assert "find_spec" in first


def test_oracles_for_the_newest_python_exist():
    names = (ROOT / ".ci" / "newest").read_text(encoding="utf-8").split()
    assert names == sorted(names)
    for name in names:
        path, test = name.partition("[")[0].split("::")
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), name


@pytest.mark.slow
def test_site_builds_and_shows_every_symbol(tmp_path):
    """Strictly: a broken link, or a name that leads nowhere, is an error."""
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra `docs`")
    pytest.importorskip("latex2mathml", reason="needs the extra `docs`")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    html = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "api").rglob("*.html"))
    there = set(re.findall(r'\bid="(jaxgen[\w.]*)"', html))
    for module, names in KNOWN.items():
        assert module in there, module
        for name in names:
            assert f"{module}.{name}" in there, f"{module}.{name}"
    pages = "".join(p.read_text(encoding="utf-8") for p in tmp_path.rglob("*.html"))
    assert "<math" in pages
    assert 'class="arithmatex"' not in pages
    outside = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', pages)
    assert not outside, outside
