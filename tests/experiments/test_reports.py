"""Every study's report with hostile text wherever data stands: read as HTML, and opened in Chromium."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.eddpm import digits
from configs.eddpm import grammar as text_config
from configs.eisl import invented
from configs.latentops import grammar as edit_config
from configs.lm_discriminator import yelp as transfer_config
from configs.moe import dts
from experiments.dts_gate import report as dts_report
from experiments.eddpm import image_report, sequence_report
from experiments.eisl import report as eisl_report
from experiments.latentops import methods
from experiments.latentops import report as latentops_report
from experiments.lm_discriminator import report as transfer_report
from experiments.lm_discriminator.corpus import Part as TransferPart
from jaxgen.data import kept
from jaxgen.data.images import Images
from jaxgen.data.tokens import TextSplit, Vocabulary
from jaxgen.data.translation import Pairs
from jaxgen.evaluators import attributes
from jaxgen.latent_ode import sample
from jaxgen.models.attribute_heads import AttributeHeads, Operators
from jaxgen.ode import Stats
from tests.pages import CASES, Page

NAME = "a | b <script>document.title='PWNED'</script> $x ]( `c` \u202e *d*"
SEEN = NAME.replace("\u202e", r"\u202e")
TEXTS, READ = list(CASES), list(CASES.values())
OURS = {
    "Constant consensus",
    "copy of the input",
    "Copy of the input",
    "data",
    "Floor",
    "majority class",
    "Mean image",
    "Real sequences in place of samples",
    "unigram",
    "Unigram",
}  # what reports themselves emphasise
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def part(texts=TEXTS):
    ids = np.zeros((len(texts), 4), np.int32)
    v = Vocabulary(
        *(4, 4, 4, 0, 0, 0, 0),
        decode=lambda u: [texts[i % len(texts)] for i in range(len(u))],
        encode=lambda lines: {},
    )
    return TextSplit(list(texts), {"source": ids, "target": ids}, v)


def images(folder):
    config = digits.get_config()
    config.data.source = NAME
    pictures = np.random.default_rng(0).random((30, 4, 4, 1)).astype(np.float32)
    data = {NAME: Images(pictures, None), "test": Images(pictures, None)}
    rows = [{"system": NAME, "seed": 0, "reconstruction_mse": 0.5, "frechet_test": 1.0}]
    real = {"classifier_accuracy": 0.9, "frechet_floor": 1.0, "nearest_train_mse": 0.1}
    shown = {NAME: (None, dict.fromkeys(("samples", "originals", "restored"), pictures))}
    floors = {"mean image": {"reconstruction_mse": 0.25}}
    return image_report.write(config, folder, data, rows, shown, real, floors)


def sequences(folder):
    config = text_config.get_config()
    config.data.source, config.data.train = NAME, (NAME, *TEXTS)
    artefacts = {"samples": TEXTS, "originals": TEXTS, "restored": TEXTS[::-1], "paths": [TEXTS]}
    rows = [{"system": NAME, "seed": 0, "bleu": 1.0}]
    data = {NAME: part(), "train": part()}
    shown = {NAME: (None, artefacts)}
    return sequence_report.write(config, folder, data, rows, shown, {NAME: 1.0})


class Sign(nnx.Module):
    """Logits of two labels."""

    dim = 4

    def __call__(self, u):
        return u[:2]


@jax.tree_util.register_static
class Same:
    """A space where latents are the tokens themselves."""

    def encode(self, x):
        return x["source"] * 1.0

    def decode(self, u):
        return u

    def texts(self, u, train):
        return train.vocabulary.decode(u)


def stay(total, u, *, points, **options):
    """In place of the ODE: nothing moves."""
    path = jnp.repeat(u[:, None], points, 1)
    zeros = jnp.zeros(len(u), jnp.int32)
    return u, Stats(zeros, zeros, zeros > 0, path)


def edits(folder):
    config = edit_config.get_config()
    config.data.source = config.data.label_field = NAME
    config.operators.attributes, config.evaluate.combinations = ("sentiment",), (("sentiment",),)
    heads = AttributeHeads(4, {}, width=8, depth=1, rngs=nnx.Rngs(0))
    heads.nets = nnx.Dict({"sentiment": Sign()})
    labels = (NAME, "<b>good</b>")
    operators = Operators(heads, {}, (("sentiment", labels),))
    targets = {"sentiment": np.zeros(len(TEXTS), int)}
    tables = {}
    for name in ("edit", "generate"):
        task = methods.Task(name, ("sentiment",), np.zeros((len(TEXTS), 4)), targets, TEXTS)
        tables[name, "sentiment", "ODE"] = (task, TEXTS, np.arange(len(TEXTS)))
    judges = SimpleNamespace(
        attributes=SimpleNamespace(about=lambda: NAME), real_ppl=2.0, real_self_bleu=30.0
    )
    cell = {"space": NAME, "task": "edit", "attributes": "sentiment", "seed": 0}
    rows = [
        {"system": "copy of the input", "floor": True, "bleu": 100.0, **cell},
        {"system": NAME, "guidance_strength": 1.0, "bleu": 2.0, **cell},
    ]
    study = SimpleNamespace(config=config, workdir=folder, data={"train": part(), "test": part()})
    shown = {NAME: {"tables": tables, "space": Same(), "operators": operators}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(attributes.LABELS, "sentiment", labels)
        patch.setattr(sample, "solve", stay)
        return latentops_report.write(study, judges, rows, shown)


def translations(folder):
    config = invented.get_config()
    config.data.source, config.noise.kinds, config.losses = NAME, (NAME,), ("ce", "eisl")
    rows = [
        {"kind": NAME, "level": 0.5, "seed": 0, "loss": loss, "bleu": 1.0, "samples": TEXTS[:3]}
        for loss in ("start", "ce", "eisl")
    ]
    pairs = Pairs(TEXTS, TEXTS[::-1])
    corpus = SimpleNamespace(parts={"train": pairs, "test": pairs}, about_cuts=lambda: "")
    return eisl_report.write(SimpleNamespace(config=config, workdir=folder, data=corpus), rows)


def transfers(folder):
    config = transfer_config.get_config()
    config.data.source, config.systems = NAME, ("lm",)
    side = TransferPart(TEXTS, part().x["target"])
    corpus = SimpleNamespace(
        train=(side, side),
        test=(side, side),
        names=("negative", NAME),
        judged=(side, side),
        puzzle=None,
        read={"test": kept.of_lengths([[1]], [4])},
        left_out={},
    )
    rows = [{"system": "LM", "seed": 0, "bleu": 1.0, "samples": [TEXTS, TEXTS]}]
    study = SimpleNamespace(config=config, workdir=folder, data=corpus)
    return transfer_report.write(study, rows, None)


def mixtures(folder):
    config = dts.get_config()
    config.data.source, config.methods = NAME, ("switch", "dense")
    config.model.width, config.model.hidden, config.model.heads = 8, 8, 2
    windows = np.random.default_rng(0).integers(0, 9, (20, 5))
    parts = dict.fromkeys(("train", "valid", "test"), windows)
    corpus = SimpleNamespace(parts=parts, vocab=9, about_cuts=lambda: "")
    curve = {"steps": [1, 2], "flops": [1.0, 2.0], "seconds": [1.0, 2.0], "valid": [2.0, 2.0]}
    numbers = dict.fromkeys(("domains", "switch", "experts", "loads"))
    rows = [
        {
            **numbers,
            "system": m,
            "seed": 0,
            "nll": 2.0,
            "lost": 0,
            "curve": {**curve, "top1": [None, None]},
            "step_seconds": {NAME: 1.0},
        }
        for m in config.methods
    ]
    config.data.context = 4
    study = SimpleNamespace(config=config, workdir=folder)
    return dts_report.write(study, corpus, rows)


STUDIES = {f.__name__: f for f in (images, sequences, edits, translations, transfers, mixtures)}
TITLES = {
    "images": "EDDPM on images",
    "sequences": "EDDPM on text",
    "edits": "LatentOps",
    "translations": "EISL on translation",
    "transfers": "Language models as discriminators",
    "mixtures": "DTS-Gate",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """study -> its report, written once, in a workdir whose name is hostile too."""
    done = {}

    def write(study):
        if study not in done:
            folder = tmp_path_factory.mktemp(study) / "w <b> 'q' [x](y)"
            folder.mkdir()
            logged = [
                {
                    "run": f"{run}-0",
                    "step": s,
                    "loss": 2.0,
                    "eps_mse": 1.0,
                    "valid_nll": 2.0,
                    "valid_bleu": 2.0,
                    "pairs": 1,
                }
                for run in (NAME, "switch", "dense", "lm")
                for s in (1, 2)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in logged)
            (folder / "metrics.jsonl").write_text(lines)
            done[study] = STUDIES[study](folder)
        return done[study]

    return write


def dom(path, folder):
    """What Chromium makes of a page after two seconds of its clock."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}",
        "--virtual-time-budget=2000",
        "--dump-dom",
        path.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("study", STUDIES)
def test_nothing_of_the_data_is_markup(study, written):
    path = written(study)
    page = Page(path.read_text())
    assert page.alive(links=("page.html",)) == []
    assert page.text["title"] == [TITLES[study]]
    assert all(len(set(cells)) == 1 for cells in page.rows), page.rows
    whole = " ".join(page.text["body"])
    assert SEEN in whole
    assert "\u202e" not in whole
    marked = {t for tag in ("em", "strong", "del") for t in page.text.get(tag, [])}
    # The best number of a column is bold; data in bold would hold something else than a number.
    assert {t for t in marked if not re.fullmatch(r"-?[\d.]+( ± [\d.]+)?", t)} <= OURS
    assert page.text["li"] == page.text["h2"]  # the contents list is the one list
    assert page.tags.count("code") == page.tags.count("pre")
    cells = page.text["td"]
    if study in ("sequences", "edits", "transfers"):
        shown = READ[:20] if study == "sequences" else READ
        assert all(cells.count(text) >= 1 for text in shown)
    if study == "translations":
        assert all(text in cells for text in READ[:3] + READ[::-1][:3])
    results = json.loads((path.parent / "results.json").read_text())
    assert results["config"]["data"]["source"] == NAME


@needs_chromium
@pytest.mark.parametrize("study", STUDIES)
def test_nothing_runs_in_chromium(study, written, tmp_path):
    path = written(study)
    page = Page(dom(path, tmp_path))
    assert page.alive(links=("page.html",)) == []
    assert page.text["title"] == [TITLES[study]]
    assert page.rows == Page(path.read_text()).rows
    assert page.text["td"] == Page(path.read_text()).text["td"]


@needs_chromium
def test_chromium_would_run_it_and_the_policy_alone_stops_it(written, tmp_path):
    """The first page shows that the test above can fail; in a finished report the same script does not run."""
    script = "<script>document.title='PWNED'</script><img src=x onerror=\"document.title='PWNED'\">"
    (tmp_path / "open.html").write_text(f"<!doctype html><title>t</title>{script}")
    assert Page(dom(tmp_path / "open.html", tmp_path / "a")).text["title"] == ["PWNED"]
    text = written("sequences").read_text()
    (tmp_path / "report.html").write_text(text.replace("</body>", script + "</body>"))
    assert Page(dom(tmp_path / "report.html", tmp_path / "b")).text["title"] == ["EDDPM on text"]


@needs_chromium
def test_the_page_of_edits_runs_its_own_script_alone(written, tmp_path):
    path = written("edits").parent / "page.html"
    assert "</script>" not in path.read_text().split("<script>")[1].removesuffix(
        "</script></body></html>\n"
    )
    page = Page(dom(path, tmp_path))
    assert page.text["title"] == ["LatentOps"]
    assert page.tags.count("script") == 1
    options = page.text["option"]
    assert {READ[0], SEEN, "<b>good</b>", "(as it is)"} <= set(options)
    assert len(page.text["li"]) == 1 + latentops_report.PAGE_POINTS
    assert page.text["li"][0].strip() == READ[0]
