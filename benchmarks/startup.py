"""From launch to the first train step of a study: with nothing compiled before, and with what the launch before kept.

    python benchmarks/startup.py --rounds 5

Launches `experiments.eddpm` on the digits in fresh workdirs, in turns, and stops each after EDDPM's first step, before
which the judge takes one too. What is compiled is kept beside the workdir (`jaxgen.launch`); cold launches have a folder of their own.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import records

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = ("-m", "experiments.eddpm", "--config=configs/eddpm/digits.py")
SHORT = (
    "--config.classifier.steps=1",
    "--config.train.steps=1",
)  # whose last line is the first step's
FIRST = "eddpm-0: step 1/"


def launch(folder: pathlib.Path) -> float:
    """Seconds until the first step's line."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    env = {k: v for k, v in os.environ.items() if k not in unset} | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *COMMAND, *SHORT, f"--workdir={folder / 'run'}"]
    begin = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        said = []
        for line in process.stdout or ():
            said.append(line)
            if FIRST in line:
                seconds = time.perf_counter() - begin
                process.kill()
                return seconds
    raise SystemExit(f"no first step:\n{''.join(said[-5:])}")


def main() -> None:
    args = records.parser(__doc__, rounds=5).parse_args()
    out = records.Recorder(args.json)
    with tempfile.TemporaryDirectory() as made:
        cold, warm = pathlib.Path(made) / "cold", pathlib.Path(made) / "warm"
        launch(warm)  # fills the folder that warm launches share
        pairs = []
        for _ in range(args.rounds):
            shutil.rmtree(cold, ignore_errors=True)
            pairs.append((launch(cold), launch(warm)))
    kept, fresh = ([pair[i] for pair in pairs] for i in (1, 0))
    sides = ("compiled before", "nothing compiled")
    out.add(records.pairs("launch to first step", kept, fresh, unit="s", sides=sides, target=2.0))


if __name__ == "__main__":
    main()
