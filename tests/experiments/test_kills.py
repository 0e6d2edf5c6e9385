"""Every study, killed at random instants and launched again: the same rows as if nothing had happened.

`JAXGEN_KILLS=N` asks for N kills of each study. Without it there is one kill of each kind of run: latents
and images, sequences, experts that change place, a gate that changes form. The others go through the same
loop and rows; a change there asks for `JAXGEN_KILLS=12`.
"""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests import processes
from tests.experiments import (
    test_eddpm_sequences,
    test_eisl_study,
    test_latentops,
    test_lm_discriminator,
    test_moe_studies,
)
from tests.test_launch import TINY as DIGITS

ROOT = pathlib.Path(__file__).parents[2]
KILLS = int(os.environ.get("JAXGEN_KILLS", "0"))
LATENTS_AND_PIXELS = "--config.systems=('eddpm', 'ddpm')"  # one kill meets one of the systems
OFTEN = {"train.save_every": 2, "train.log_every": 1}
LAUNCHES = {
    "eddpm": ("eddpm/digits", DIGITS if KILLS else [*DIGITS, LATENTS_AND_PIXELS]),
    "eddpm_text": ("eddpm/grammar", test_eddpm_sequences.TINY),
    "eddpm_ablation": ("eddpm/digits", DIGITS),
    "latentops": ("latentops/grammar", test_latentops.TINY),
    "eisl": ("eisl/invented", test_eisl_study.TINY),
    "lm_discriminator": (
        "lm_discriminator/decipher",
        test_lm_discriminator.TINY | {"systems": ("lm", "classifier")},
    ),
    "dts_gate": (
        "moe/dts",
        test_moe_studies.TINY | test_moe_studies.DTS | {"methods": ("dts", "switch")},
    ),
    "flexmoe": (
        "moe/flexmoe",
        test_moe_studies.TINY | test_moe_studies.FLEX | {"policies": ("static", "flexmoe")},
    ),
    "flexmoe_images": (
        "moe/flexmoe_images",
        test_moe_studies.TINY | test_moe_studies.FLEX | {"policies": ("static", "flexmoe")},
    ),
}
EACH_KIND = ("eddpm", "eisl", "dts_gate", "flexmoe")
MODULES = {"eddpm_text": "eddpm", "eddpm_ablation": "eddpm.ablation", "flexmoe_images": "flexmoe"}


def start(study, workdir, log):
    """A launch as from a shell; one process is one process group."""
    config, changes = LAUNCHES[study]
    if isinstance(changes, dict):
        changes = [f"--config.{k}={v!r}" for k, v in (changes | OFTEN).items()]
    else:
        changes = [*changes, *(f"--config.{k}={v}" for k, v in OFTEN.items())]
    module = f"experiments.{MODULES.get(study, study)}"
    argv = [sys.executable, "-m", module, f"--config=configs/{config}.py", f"--workdir={workdir}"]
    with log.open("a") as out:
        return subprocess.Popen(
            [*argv, *changes], cwd=ROOT, env=processes.environment(), stdout=out, stderr=out
        )


def rows(workdir):
    """What a workdir says, without what a clock says."""
    found = {}
    for path in workdir.rglob("metrics.jsonl"):
        for line in path.read_text().splitlines():
            row = untimed(json.loads(line))
            found[path.relative_to(workdir), row["run"], row["step"]] = row
    results = json.loads((workdir / "results.json").read_text())
    del results["command"]  # it names the workdir
    return found, untimed(results)


def untimed(value):
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not re.search("second|to_target|time", k)}
        return {k: untimed(v) for k, v in kept.items()}
    return [untimed(v) for v in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("study", LAUNCHES if KILLS else EACH_KIND)
def test_killed_and_launched_again_it_ends_with_the_same_rows(tmp_path, study):
    log, begin = tmp_path / "log", time.monotonic()
    assert start(study, tmp_path / "straight", log).wait() == 0, log.read_text()[-2000:]
    whole = time.monotonic() - begin
    want = rows(tmp_path / "straight")
    rng, killed, trial, kills = random.Random(study), 0, 0, max(KILLS, 1)
    while killed < kills:
        trial += 1
        assert trial < 20 * kills
        workdir = tmp_path / f"killed-{trial}"
        for _ in range(min(3, kills - killed)):
            begin, child = time.monotonic(), start(study, workdir, log)
            try:
                child.wait(timeout=rng.uniform(0.15, 1.0) * whole)
                whole = min(
                    whole, time.monotonic() - begin
                )  # what was compiled before is not again
            except subprocess.TimeoutExpired:
                number = rng.choice([signal.SIGTERM, signal.SIGKILL])
                child.send_signal(number)
                code = child.wait()
                if number == signal.SIGKILL and code == 0:
                    continue  # it came to its end in that very instant
                killed += 1
                # SIGTERM before there is anything to save ends python itself.
                assert code in ((0, -number) if number == signal.SIGTERM else (-number,)), (
                    log.read_text()[-2000:]
                )
        assert start(study, workdir, log).wait() == 0, log.read_text()[-2000:]
        assert rows(workdir) == want
    # Python prints, and drops, what a signal raises within a callback of its garbage collector.
    said = log.read_text()
    assert "Traceback" not in said or "Exception ignored" in said
    print(f"{study}: {killed} kills, {whole:.1f} s without")
