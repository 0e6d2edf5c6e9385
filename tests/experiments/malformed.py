"""Values that no field allows, and whole command lines that no study can run, by a seed."""

import pathlib
import random

from jaxgen import launch
from jaxgen.config import leaves
from tests.experiments import builds

# Any text is allowed here, as far as a config alone can tell.
ANY_TEXT = ("alphabet", "label_field", "text_field", "text", "keywords", "name")
ANY_TEXT += ("record", "reference", "reference_record")
FILES = ("train", "valid", "test", "files", "frozen")
BY_TYPE = {
    bool: ("maybe", "2", "None", ""),
    int: ("-7", "1.5", "1e3", "99999999999999999999", "True", "nan", "None", "", "9" * 5000),
    float: ("nan", "inf", "-inf", "-1e30", "1e30", "1e400", "None", "abc", ""),
    str: ("nonsense", "\\udcff/" * 3, "-1", "x" * 5000),
    tuple: (
        "abc",
        "(None,)",
        "((1,),)",
        "()",
        "(1, 2",
        "-3",
        "(nan,)",
        "{}",
        "('', -5)",
        "(1e30,)",
    ),
}


def bad_values(path, value):
    """Command-line values of a field that must be refused whatever the other fields are."""
    name = path.rpartition(".")[2]
    if name in ANY_TEXT and path != "operators.keywords":
        return ()
    named = name in FILES and isinstance(value, str)
    if named or name in ("path", "tokenizer", "encoder_path", "decoder_path"):
        return ("x" * 5000, "y" * 300)
    if name in FILES:
        return ("(None,)", "((1,),)", "(1, 2", "-3")
    if path == "mesh.topology":
        return ("x" * 5000,)
    bad = BY_TYPE[tuple if isinstance(value, tuple) else type(value)]
    if path == "eisl.weights":  # none means equal ones
        return tuple(text for text in bad if text not in ("()", "{}"))
    return bad


def fields(file):
    """(path, value) of every field of a config file."""
    return list(leaves(launch.load_config(file)))


def field_errors(file, seed, each):
    """Overrides of every field of a config file, `each` drawn values for each field."""
    rng = random.Random(f"{file}{seed}")
    for path, value in fields(file):
        bad = bad_values(path, value)
        for text in rng.sample(bad, min(each, len(bad))):
            yield f"--config.{path}={text}"


def files(folder: pathlib.Path):
    """{what is wrong: arguments}: config files, workdirs and meshes that cannot be."""
    digits = "--config=configs/eddpm/digits.py"
    texts = {
        "an import": "import nosuchpackage\ndef get_config(): pass\n",
        "no syntax": "def get_config(:\n",
        "no function": "config = 3\n",
        "raises": "def get_config():\n    raise KeyError('a')\n",
        "attribute": "import os\ndef get_config():\n    return os.nothing\n",
        "exits": "import sys\nsys.exit(3)\n",
        "a dict": "def get_config():\n    return {'train': 1}\n",
        "nothing": "def get_config():\n    pass\n",
        "an argument": "def get_config(kind):\n    pass\n",
        "endless": "def get_config():\n    return get_config()\n",
        "a string": "from configs.eddpm import digits\ndef get_config():\n"
        "    c = digits.get_config()\n    del c.train.steps\n    c.train.steps = 'many'\n    return c\n",
        "a section": "from configs.eddpm import digits\ndef get_config():\n"
        "    c = digits.get_config()\n    del c['train']\n    c.train = 3\n    return c\n",
        "a new field": "from configs.eddpm import digits\ndef get_config():\n"
        "    c = digits.get_config()\n    c.train.stepps = 3\n    return c\n",
        "left open": "import ml_collections\nfrom configs.eddpm import digits\ndef get_config():\n"
        "    c = digits.get_config()\n    del c.train['steps']\n"
        "    c.train.steps = ml_collections.config_dict.required_placeholder(int)\n    return c\n",
        "an array": "import numpy\nfrom configs.eddpm import digits\ndef get_config():\n"
        "    c = digits.get_config()\n    c.vae.betas = (numpy.ones(3),)\n    return c\n",
    }
    out = {}
    for name, text in texts.items():
        path = folder / f"{name.replace(' ', '_')}.py"
        path.write_text(text)
        out[name] = ["eddpm", f"--config={path}"]
    binary = folder / "binary.py"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    out["a binary"] = ["eddpm", f"--config={binary}"]
    jsons = {
        "list": b"[]",
        "number": b"3",
        "null": b"null",
        "cut": b'{"train": ',
        "empty": b"",
        "bytes": b"\xff\xfe\x00",
        "huge": b'{"seed": ' + b"9" * 5000 + b"}",
        "deep": b"[" * 100_000,
        "other": b'{"train": [1, 2], "x": null}',
    }
    for name, raw in jsons.items():
        (folder / f"json-{name}").mkdir()
        (folder / f"json-{name}" / "config.json").write_bytes(raw)
        out[f"config.json {name}"] = ["eddpm", digits, f"--workdir={folder / f'json-{name}'}"]
    # Of another config, and trained.
    (folder / "json-other" / "checkpoints" / "eddpm-0" / "5").mkdir(parents=True)
    (folder / "json-folder" / "config.json").mkdir(parents=True)
    out["config.json folder"] = ["eddpm", digits, f"--workdir={folder / 'json-folder'}"]
    (folder / "plain").write_text("a file\n")
    (folder / "dangling").symlink_to(folder / "nowhere")
    for name in ("plain", "plain/below", "plain/below/it", "dangling", "n" * 300):
        out[f"workdir {name[:20]}"] = ["eddpm", digits, f"--workdir={folder / name}"]
    meshes = {
        "alone": ["processes=2"],
        "no host": ["coordinator=nonsense"],
        "no port": ["coordinator=localhost", "processes=2", "process_id=0"],
        "port 0": ["coordinator=localhost:0", "processes=2", "process_id=0"],
        "port": ["coordinator=127.0.0.1:99999", "processes=2", "process_id=0"],
        "beyond": ["processes=2", "process_id=5", "coordinator=127.0.0.1:39999"],
        "of one": ["process_id=1"],
        "unknown host": ["coordinator=no.such.host.invalid:1234", "processes=2", "process_id=1"],
        "axes": ["data=3", "host_devices=8"],
        "two rests": ["fsdp=-1"],
        "devices": ["host_devices=100000"],
    }
    for name, settings in meshes.items():
        out[f"mesh {name}"] = ["eddpm", digits, *(f"--config.mesh.{s}" for s in settings)]
    return out


def together():
    """{what is wrong: arguments}: fields that do not fit each other, or the data."""
    grammar, yelp = "--config=configs/eddpm/grammar.py", "--config=configs/latentops/yelp.py"
    digits = "--config=configs/eddpm/digits.py"
    proteins = "--config=configs/eddpm/antibody.py"
    invented = "--config=configs/eisl/invented.py"
    transfer = "--config=configs/lm_discriminator/yelp.py"
    dts, flexmoe = "--config=configs/moe/dts.py", "--config=configs/moe/flexmoe.py"
    lines = [
        ("eddpm", grammar, "judge.heads=5"),
        ("eddpm", grammar, "model.encoder_heads=3"),
        ("eddpm", grammar, "model.decoder_heads=7"),
        ("eddpm", grammar, "model.eisl_ngrams=(1,30)"),
        ("eddpm", grammar, "model.eisl_ngrams=(2,2)"),
        ("eddpm", grammar, "model.regressor_weight=1.0"),
        ("eddpm", grammar, "model.encoder_path=/no/where"),
        ("eddpm", grammar, "model.decoder_path=configs"),
        ("eddpm", grammar, "model.encoder=my_encoder:Bag"),
        ("eddpm", grammar, "model.encoder=math:pi"),
        ("eddpm", grammar, "data.tokenizer=configs"),
        ("eddpm", grammar, "data.valid_fraction=0.95"),
        ("eddpm", grammar, "data.source=table", "data.train=('a.csv',)", "data.text_field="),
        ("eddpm", grammar, "data.source=files"),
        ("eddpm", grammar, "data.source=files", "data.train=('no.txt',)"),
        ("eddpm", grammar, "data.source=hf"),
        ("eddpm", grammar, "data.kind=images"),
        ("eddpm", grammar, "train.batch_size=60", "train.accumulate=8"),
        ("eddpm", grammar, "seed=9223372036837998591", "seeds=100"),
        ("eddpm", digits, "schedule.beta_min=0.5"),
        ("eddpm", digits, "schedule.kind=vp_sde", "schedule.num_steps=1", "schedule.beta_max=1000"),
        ("eddpm", digits, "ddpm.multipliers=(1,1,1,1,1)"),
        ("eddpm", digits, "model.decoder=diffusion", "model.width=5"),
        ("eddpm", digits, "data.size=9"),
        ("eddpm", digits, "data.limit=5"),
        ("eddpm", digits, "data.source=folder", "data.path=/no/where"),
        ("eddpm", proteins, "ascent.batch_size=500", "train.accumulate=8"),
        ("eddpm", proteins, "data.train=('a.csv','b.csv')"),
        ("eddpm", proteins, "model.decoder_path=/no/where"),
        ("eddpm.ablation", grammar),
        ("latentops", "--config=configs/eddpm/grammar.py"),
        ("latentops", yelp, "data.train=('a',)"),
        ("latentops", yelp, "operators.attributes=('formality',)"),
        ("latentops", yelp, "evaluate.combinations=(('person',),)"),
        ("latentops", yelp, "edit.tense=someday"),
        ("eisl", invented, "eisl.ngrams=(25,)"),
        ("eisl", invented, "eisl.ngrams=(1,6)", "data.train_tokens=5"),
        ("eisl", invented, "data.tokenizer=configs"),
        ("eisl", invented, "model.heads=5"),
        ("eisl", invented, "data.source=files", "data.train=('a',)"),
        ("eisl", invented, "model.non_autoregressive=True"),
        ("eisl", invented, "eisl.ngram_factor=0.0"),
        ("lm_discriminator", transfer, "transfer.ngrams=(3,25)"),
        ("lm_discriminator", transfer, "lm.heads=5"),
        ("lm_discriminator", transfer, "data.train=()"),
        ("dts_gate", dts, "dts.budgets=abc"),
        ("dts_gate", dts, "dts.budgets=((0,8,1),)"),
        ("dts_gate", dts, "dts.budgets=((0,8),(0,4))"),
        ("dts_gate", dts, "dts.budgets=((0,9),)"),
        ("dts_gate", dts, "dts.budgets=((5,8),)"),
        ("dts_gate", dts, "dts.budgets=(0,8)"),
        ("dts_gate", dts, "dts.shared_steps=400"),
        ("dts_gate", dts, "model.expert_every=3"),
        ("dts_gate", dts, "mesh.expert=3", "mesh.host_devices=3", "train.batch_size=15"),
        ("flexmoe", flexmoe, "task=images", "model.patch=3"),
        ("flexmoe", flexmoe, "model.k=17"),
        ("flexmoe", flexmoe, "placement.slots=1"),
        ("flexmoe", flexmoe, "model.experts=12"),
    ]
    return {" ".join(a): [a[0], a[1], *(f"--config.{setting}" for setting in a[2:])] for a in lines}


def command_lines(folder: pathlib.Path, count: int, seed: int):
    """`count` command lines, each of which must end in one line; without a workdir where any will do."""
    lines = [*files(folder).values(), *together().values()]
    rng = random.Random(seed)
    some = [
        [builds.command_of(study), f"--config={file}", override]
        for file, study in builds.STUDIES.items()
        for override in field_errors(file, seed, 1)
    ]
    return lines + rng.sample(some, count - len(lines))
