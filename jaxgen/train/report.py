"""One report for all studies: report.md, report.html with everything inlined, and results.json.

    page = Report("EDDPM on images", workdir, config)
    page.section("Results")
    page.comparison(rows, {"bleu": "BLEU ↑"}, ranked=["bleu"])
    page.grid({"EDDPM": "samples/eddpm.png", "VAE": "samples/vae.png"})
    page.curves()
    page.write({"systems": rows})

A report begins with the command that made it and its contents, and ends with config, machine and wall times.
"""

import html
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence

from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.train import markup, provenance, tables
from jaxgen.train import plots as plots_lib
from jaxgen.train.writers import Json, read_metrics, write_atomic

GRID_COLUMNS = 4  # of report.md; the page has as many as fit


class Report:
    """Collects the blocks of a report in order; each is kept as Markdown and as HTML.

    Text that comes from data goes in as data (titles, names, cells, captions, listings) or through
    `markup.literal`; see `jaxgen.train.markup`.

    Attributes:
      columns: metric of `results.json` -> its title, whose arrow says which way is better. `comparison`
        adds its own; `jaxgen.report` reads them.
    """

    def __init__(
        self,
        title: str,
        workdir: pathlib.Path,
        config: Config | None = None,
        *,
        name: str = "report",
    ):
        """Args:
        title: of the page.
        workdir: where the files go, and what paths of pictures are relative to.
        config: of the launch.
        name: of the files, without suffix.
        """
        self.title, self.workdir, self.config, self.name = title, workdir, config, name
        self.columns: dict[str, str] = {}
        self._blocks: list[tuple[str, str]] = []
        self._sections: list[tuple[str, str]] = []
        self._workdirs: Mapping[str, pathlib.Path] = {"": workdir}

    def section(self, title: str) -> None:
        """Begins a section, which the contents list names. The title is text, not markup."""
        same = markup.slug(title)
        taken = {anchor for _, anchor in self._sections}
        numbered = (f"{same}-{i}" for i in itertools.count(1))
        anchor = next(a for a in itertools.chain([same], numbered) if a not in taken)
        self._sections.append((title, anchor))
        name = _escape(title)
        self._add(f"## {markup.literal(title)}\n", f'<h2 id="{anchor}">{name}</h2>')

    def text(self, markdown: str) -> None:
        """Paragraphs of Markdown, in which data went through `markup.literal`."""
        self._add(markdown, self._html(markdown))

    def listing(self, lines: Sequence[str]) -> None:
        """Lines as they are."""
        self.text(markup.listing(lines))

    def table(
        self,
        header: Sequence[object],
        rows: Sequence[Sequence[object]],
        rules: Sequence[Sequence[object]] = (),
    ) -> None:
        """See `tables.number_table`: the best `Number` of a column with an arrow is marked."""
        self.numbers(tables.number_table(header, rows, rules))

    def comparison(
        self,
        rows: Sequence[Mapping[str, Json]],
        columns: Mapping[str, str],
        *,
        ranked: Sequence[str] = (),
        rules: Mapping[str, Mapping[str, float | tuple[float, float]]] | None = None,
        label: str = "system",
    ) -> dict[str, float]:
        """The table of systems; returns their mean ranks. See `tables.comparison_table`."""
        text, ranks = tables.comparison_table(
            rows, columns, ranked=ranked, rules=rules, label=label
        )
        self.columns |= columns
        self.numbers(text)
        return ranks

    def numbers(self, markdown: str) -> None:
        """A table that scrolls in a box of its own, and whose first column stays in sight."""
        self._scroll(markdown, "scroll numbers")

    def texts(self, columns: Mapping[str, Sequence[object]]) -> None:
        """Texts side by side: one column a system, one row for each that all of them have."""
        rows = list(zip(*columns.values(), strict=False))
        self._scroll(tables.markdown_table(list(columns), rows), "scroll")

    def grid(self, pictures: Mapping[str, str], *, plots: bool = False) -> None:
        """Pictures side by side.

        Args:
          pictures: caption -> path, relative to the workdir.
          plots: they are plots on white, which a dark page inverts; else photographs and the like.
        """
        kind = "grid plots" if plots else "grid"
        figures = "".join(markup.figure(c, p, self.workdir) for c, p in pictures.items())
        cells = [markup.image(caption, path) for caption, path in pictures.items()]
        markdown = "\n".join(
            _picture_table(list(pictures)[i : i + GRID_COLUMNS], cells[i : i + GRID_COLUMNS])
            for i in range(0, len(cells), GRID_COLUMNS)
        )
        alone = cells[0] + "\n" if len(cells) == 1 else markdown
        self._add(alone, f'<div class="{kind}">{figures}</div>')

    def picture(self, text: str, path: str) -> None:
        """One picture; see `grid`."""
        self.grid({text: path})

    def plot(self, text: str, path: str) -> None:
        """One plot; see `grid`."""
        self.grid({text: path}, plots=True)

    def fold(self, title: str, markdown: str) -> None:
        """A block that is closed until it is clicked on. The title is text, not markup."""
        name = _escape(title)
        self._add(
            f"<details><summary>{name}</summary>\n\n{markdown}\n</details>\n",
            f"<details><summary>{name}</summary>{self._html(markdown)}</details>",
        )

    def curves(
        self,
        workdirs: Mapping[str, pathlib.Path] | None = None,
        *,
        folder: str = "samples",
        metrics: Sequence[str] = plots_lib.CURVES,
    ) -> None:
        """A section of training curves, of what `metrics.jsonl` has; none without.

        Args:
          workdirs: name -> workdir, several on one plot; this one alone by default.
          folder: of the pictures, in the workdir.
        """
        self._workdirs = workdirs or self._workdirs
        found = plots_lib.plot_training(self.workdir / folder, self._workdirs, metrics=metrics)
        if found:
            self.section("Training")
            self.grid({m: f"{folder}/{path.name}" for m, path in found.items()}, plots=True)

    def write(self, results: Mapping[str, Json] | None = None) -> pathlib.Path:
        """Writes report.md, report.html and results.json; returns the path of the page.

        Args:
          results: what results.json holds beside `columns`, `config`, `command` and `versions`, which are
            added. None where the page is of no launch: no results.json, and nothing about a machine.
        """
        top = ""
        if results is not None:
            command, versions = provenance.command(), provenance.versions()
            config = {} if self.config is None else {"config": self.config.to_dict()}
            made = {"columns": self.columns, **config, "command": command, "versions": versions}
            text = json.dumps({**results, **made}, indent=2)
            write_atomic(self.workdir / "results.json", text + "\n")
            self._how_it_was_made(versions)
            top = markup.listing([command]) if command else ""
        lines = [f"- [{markup.cell(title)}](#{anchor})" for title, anchor in self._sections]
        head = [f"# {markup.literal(self.title)}\n", top, *lines, ""]
        text = "\n".join([*head, *(markdown for markdown, _ in self._blocks)])
        write_atomic(self.workdir / f"{self.name}.md", text)
        links = "".join(
            f'<li><a href="#{anchor}">{_escape(title)}</a></li>' for title, anchor in self._sections
        )
        nav = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if links else ""
        head = [f"<h1>{_escape(self.title)}</h1>", self._html(top), nav]
        body = "\n".join([*head, *(block for _, block in self._blocks)])
        page = markup.page(self.title, body, style=markup.asset("report.css"))
        write_atomic(self.workdir / f"{self.name}.html", page)
        return self.workdir / f"{self.name}.html"

    def _how_it_was_made(self, versions: Mapping[str, str]) -> None:
        self.section("How it was made")
        table = tables.markdown_table(list(versions), [list(versions.values())])
        self._scroll(table, "scroll")
        times = {
            ": ".join(filter(None, (name, run))): time
            for name, workdir in self._workdirs.items()
            for run, time in provenance.run_times(read_metrics(workdir)).items()
        }
        if times:
            whole = provenance.duration(sum(seconds for _, seconds in times.values()))
            rows = [
                [run, f"{steps:,}", provenance.duration(seconds)]
                for run, (steps, seconds) in times.items()
            ]
            about = f"Training of {len(times)} runs: {whole}, compilation included"
            self.fold(about, tables.markdown_table(["run", "steps", "wall time"], rows))
        if self.config is not None:
            lines = config_lib.to_json(self.config).splitlines()
            self.fold("Config", markup.listing(lines))

    def _html(self, markdown: str) -> str:
        return markup.to_html(markdown, self.workdir)

    def _scroll(self, table: str, kind: str) -> None:
        self._add(table, f'<div class="{kind}" tabindex="0">{self._html(table)}</div>')

    def _add(self, markdown: str, block: str) -> None:
        self._blocks.append((markdown, block))


def _escape(text: str) -> str:
    return html.escape(markup.visible(text))


def _picture_table(header: Sequence[str], pictures: Sequence[str]) -> str:
    lines = [map(markup.cell, header), ["---"] * len(header), pictures]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
