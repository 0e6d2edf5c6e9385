"""Wrong values in every field of every config: one line before anything runs, or a config that runs.

`JAXGEN_LAUNCHES=200` launches every malformed command line as a program (48 of them by default).
"""

import contextlib
import importlib
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

from jaxgen import launch
from jaxgen.config import leaves
from jaxgen.errors import ConfigError
from tests import processes
from tests.experiments import builds, malformed

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHES = int(os.environ.get("JAXGEN_LAUNCHES", "48"))
MODES = {"train": lambda config, workdir: None}
# What a config file may put anywhere.
ANYTHING = [
    None,
    True,
    0,
    1,
    -1,
    3,
    10**18,
    -(10**18),
    10**5000,
    0.0,
    0.5,
    -2.5,
    1e30,
    float("nan"),
]
ANYTHING += [
    "",
    "word",
    "\0",
    "x" * 9999,
    (),
    [],
    {},
    (1,),
    ("a",),
    (None,),
    ((0, 8),),
    b"a",
    object,
]


def complaint(check, *arguments):
    """What `check` has against its arguments, in one line; None where it has nothing."""
    try:
        check(*arguments)
    except ConfigError as e:
        text = str(e)
        assert len(text.splitlines()) == 1
        assert 10 < len(text) < 1500
        return text
    return None


def begin(study, rest, workdir=None):
    """What a launch does in its own process before a mode begins."""
    config, given, _ = launch.parse(["x", *rest], MODES)
    study.validate(config)
    if given or workdir:
        launch.check_workdir(pathlib.Path(given or workdir), config, "train", may_begin=True)


def study_of(module):
    """The module with `validate`, of what `python -m experiments.` is followed by."""
    inner = module if "." in module else f"{module}.study"
    return importlib.import_module(f"experiments.{inner}")


@pytest.mark.parametrize("file", builds.STUDIES)
def test_no_bad_value_of_any_field_passes_the_command_line(file):
    overrides = list(malformed.field_errors(file, seed=15, each=1))
    passed = [
        o
        for o in overrides
        if complaint(begin, builds.STUDIES[file], [f"--config={file}", o]) is None
    ]
    assert not passed
    assert len(overrides) > 55


@pytest.mark.parametrize("file", builds.STUDIES)
def test_any_value_in_any_field_is_allowed_or_named(file):
    """As a config file can set it, whatever its type."""
    rng, base = random.Random(file), launch.load_config(file)
    paths = [path for path, _ in leaves(base)]
    refused = 0
    for path in paths:
        for value in rng.sample(ANYTHING, 4):
            config = base.copy_and_resolve_references()
            *sections, name = path.split(".")
            section = config
            for part in sections:
                section = section[part]
            with contextlib.suppress(OverflowError), section.ignore_type():
                section[name] = value
            refused += complaint(builds.STUDIES[file].validate, config) is not None
    assert refused > 2 * len(paths)


SMALL = {
    **dict.fromkeys(("width", "hidden", "encoder_width", "decoder_width", "denoiser_width"), 8),
    **dict.fromkeys(("depth", "denoiser_depth", "heads", "encoder_heads", "decoder_heads"), 2),
    **dict.fromkeys(("encoder_depth", "decoder_depth"), 1),
    **dict.fromkeys(("max_tokens", "context", "batch_size", "experts", "size"), 8),
    **{"latent_dim": 4, "vocab_size": 32, "source_vocab_size": 0, "num_steps": 10, "features": 4},
    **{
        "train_tokens": 0,
        "fused_bytes": 0,
        "budgets": ((0, 8), (60, 1)),
        "caps": ((0, 8),),
        "fsdp": 1,
        "data": -1,
    },
}


def small(file):
    """A config of tiny networks on the eight devices of the tests."""
    config = launch.load_config(file)
    changes = {
        p: SMALL[p.rpartition(".")[2]] for p, _ in leaves(config) if p.rpartition(".")[2] in SMALL
    }
    if "expert" in config.mesh and config.mesh.expert > 1:
        changes |= {"mesh.expert": 8, "mesh.data": 1}
    config.update_from_flattened_dict(changes | {"mesh.model": 1})
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("configs/eddpm/digits.py", {"model.decoder": "diffusion", "model.width": 6}),
        ("configs/eddpm/digits.py", {"model.width": 5, "data.size": 0, "data.channels": 0}),
        ("configs/eddpm/digits.py", {"ddpm.multipliers": (3, 1, 1, 2), "schedule.num_steps": 1}),
        ("configs/eddpm/grammar.py", {"model.eisl": 1.0, "model.eisl_ngrams": (0, 8, -1)}),
        ("configs/eddpm/peptides.py", {"model.decoder": "gpt2", "model.eisl": 0.5}),
        ("configs/latentops/grammar.py", {"operators.depth": 0, "vae.token_deletion_rate": 0.9}),
        ("configs/eisl/invented.py", {"eisl.ngrams": (5, 0), "data.train_tokens": 5}),
        (
            "configs/eisl/multi30k_non_autoregressive.py",
            {"eisl.ngrams": (8,), "data.train_tokens": 8},
        ),
        (
            "configs/lm_discriminator/yelp.py",
            {
                "transfer.ngrams": (8, -1),
                "classifier.width": 1,
                "systems": ("classifier_eisl", "parallel_ce"),
            },
        ),
        ("configs/constraints/digits.py", {"constraint.samples": 1, "model.noise_dim": 0}),
        ("configs/constraints/diffusion.py", {"model.decode_steps": 2, "data.canvas": 16}),
        (
            "configs/constraints/templates.py",
            {
                "model.branch": "implicit",
                "systems": ("base", "learned", "binary_d"),
                "data.max_words": 7,
            },
        ),
        ("configs/constraints/templates.py", {"constraint.target_ess": 2.0, "data.max_words": 7}),
        (
            "configs/content_manipulation/grammar.py",
            {"data.generated": 32, "model.coverage": 0, "loss.style": "eisl"},
        ),
        (
            "configs/e2wm/default.py",
            {"lora.rank": 1, "replay.share": 1.0, "model.kind": "gpt_neo"},
        ),
        ("configs/moe/dts.py", {"dts.budgets": ((0, 1),), "model.expert_every": 1}),
        ("configs/moe/flexmoe.py", {"model.k": 8, "placement.slots": 1}),
        ("configs/moe/flexmoe_images.py", {"model.patch": 8, "model.experts": 16}),
    ],
)
def test_a_config_at_the_edge_of_what_is_allowed_can_be_built(file, changes):
    config = small(file)
    config.update_from_flattened_dict(changes)
    builds.STUDIES[file].validate(config)
    builds.build(builds.STUDIES[file], config)


def launched(arguments, workdir):
    module, *rest = arguments
    if not any(a.startswith("--workdir") for a in rest):
        rest.append(f"--workdir={workdir}")
    command = [sys.executable, "-m", f"experiments.{module}", *rest]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=processes.environment(),
    )


def refused(done, arguments, workdir):
    lines = done.stderr.splitlines()
    assert done.returncode == 2, (arguments, done.stderr[-2000:])
    assert len(lines) == 1, (arguments, lines)
    assert lines[0].startswith("error: ")
    assert not done.stdout
    assert not (workdir / "config.json").exists()
    assert not (workdir / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_malformed_launches_are_a_line_each(part, tmp_path):
    """Two seconds a launch: all but a part of the lines are begun in one process, by the tests around."""
    lines = malformed.command_lines(tmp_path, 200, seed=2023)
    assert len(lines) == 200
    random.Random(2023).shuffle(lines)
    for i, arguments in enumerate(lines[:LAUNCHES][part::4]):
        workdir = tmp_path / f"run-{i}"
        refused(launched(arguments, workdir), arguments, workdir)


@pytest.mark.parametrize("name", ["an import", "left open", "config.json bytes", "mesh alone"])
def test_a_launch_that_cannot_be_ends_in_one_line(name, tmp_path):
    arguments = malformed.files(tmp_path)[name]
    begin = time.monotonic()
    refused(launched(arguments, tmp_path / "w"), arguments, tmp_path / "w")
    assert time.monotonic() - begin < 60  # about 2 s on an idle machine


def test_every_malformed_file_and_pair_of_fields_is_refused_in_one_line(tmp_path):
    """All but those that need devices, other processes or the data to be seen."""
    lines = malformed.files(tmp_path) | malformed.together()
    passed = [
        name
        for name, (module, *rest) in lines.items()
        if complaint(begin, study_of(module), rest) is None
    ]
    later = (
        "mesh alone",
        "mesh axes",
        "data.source=folder",
        "data.limit=5",
        "data.train=('no.txt'",
    )
    later += ("schedule.num_steps=1", "mesh.expert=3", "placement.slots=1", "model.experts=12")
    assert [name for name in passed if not any(part in name for part in later)] == []
