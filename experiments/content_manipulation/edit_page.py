"""A page where a person edits a record and reads the sentence: sentences made before, and a command for others.

A static page cannot run the model. It has, for some test items, the sentences of a few changed records; for any other
record it writes the line that `--mode=rewrite` reads.
"""

import html
import json
import pathlib
from collections.abc import Mapping, Sequence

from experiments.common.runs import Study
from experiments.content_manipulation.corpus import Corpus
from jaxgen.data.style_records import StyleRecords
from jaxgen.train import markup
from jaxgen.train.writers import write_atomic

SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const pick = document.getElementById("pick"), rows = document.getElementById("rows");
const text = document.getElementById("text"), line = document.getElementById("line");
const key = record => JSON.stringify(record);
const known = new Map(data.edits.map(e => [e.item + key(e.record), e.text]));
function record() {
  return [...rows.children].map(r => [...r.querySelectorAll("input")].map(i => i.value.trim()))
    .filter(tuple => tuple.every(word => word));
}
function show() {
  const e = data.edits[pick.value], now = record();
  const made = known.get(e.item + key(now));
  text.textContent = made === undefined ? "not made before: run the line below" : made;
  const ask = {record: now, reference: data.references[e.item]};
  line.textContent = "echo '" + JSON.stringify(ask).replaceAll("'", "'\\\\''") + "' | " + data.command;
}
function load() {
  const e = data.edits[pick.value];
  document.getElementById("reference").textContent = data.references[e.item];
  rows.replaceChildren(...e.record.map(tuple => {
    const row = document.createElement("tr");
    for (const word of tuple) {
      const cell = row.insertCell(), input = document.createElement("input");
      input.value = word;
      input.addEventListener("input", show);
      cell.append(input);
    }
    return row;
  }));
  show();
}
data.edits.forEach((e, i) => pick.add(new Option("item " + (e.item + 1) + ": " + e.change, i)));
pick.addEventListener("change", load);
load();
"""


def command(study: Study[Corpus], system: str) -> str:
    """What reads requests from the standard input; the config's file is not known to a run."""
    return (
        "python -m experiments.content_manipulation --mode=rewrite --config=CONFIG.py "
        f"--workdir={study.workdir.name} --config.rewrite.system={system}"
    )


def write(
    workdir: pathlib.Path,
    test: StyleRecords,
    edits: Sequence[Mapping[str, object]],
    system: str,
    command: str,
) -> pathlib.Path:
    """Writes `edits.html`; data are text in it, never markup."""
    items = {edit["item"] for edit in edits}
    data = {
        "edits": list(edits),
        "references": {i: test.y_ref[i] for i in items if isinstance(i, int)},
        "command": command,
    }
    # Within a script element only `</` could end it, and JSON may write any character by its number.
    text = json.dumps(data).replace("<", "\\u003c").replace("&", "\\u0026")
    body = f"""<h1>Edited records</h1>
<p>Sentences of the {html.escape(system)}. Those of the changes in the list were made when the report was; of any
other record the page makes the line to run, since it cannot run the model.</p>
<p><label>Record <select id="pick"></select></label></p>
<p>Reference: <b id="reference"></b></p>
<table><thead><tr><th>type</th><th>value</th><th>owner</th></tr></thead><tbody id="rows"></tbody></table>
<p>Sentence: <b id="text"></b></p>
<pre id="line"></pre>
<script type="application/json" id="data">{text}</script>"""
    page = markup.page("Edited records", body, style=markup.asset("report.css"), script=SCRIPT)
    write_atomic(workdir / "edits.html", page)
    return workdir / "edits.html"
