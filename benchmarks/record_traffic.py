"""Records the router traffic that `jaxgen.moe.placement.traffic.recorded` reads: `jaxgen/moe/placement/traffic_gpt.npz`.

    PYTHONPATH=. python benchmarks/record_traffic.py

A GPT with 64 experts in two layers, top 2, learns the standard library's documentation for 300 steps; the
counts of every fifth step are kept. Other machines and Python versions give other counts.
"""

import pathlib
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
EVERY = 5


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from configs.moe import flexmoe as settings
    from jaxgen import launch

    config = settings.get_config()
    launch.setup_devices(config.mesh, "train")  # before anything touches a device

    from experiments.flexmoe import study

    changes = {
        "policies": ("static",),
        "model.experts": 64,
        "placement.slots": 8,
        "train.steps": 301,
        "train.save_every": 301,
        "train.log_every": 50,
    }
    config.update_from_flattened_dict(changes)
    study.validate(config)
    with tempfile.TemporaryDirectory() as folder:
        study.train(config, pathlib.Path(folder))
        with np.load(pathlib.Path(folder) / "traffic" / "static-0.npz") as file:
            counts = file["counts"][::EVERY].astype(np.int32)
    path = ROOT / "jaxgen" / "moe" / "placement" / "traffic_gpt.npz"
    np.savez_compressed(path, counts=counts)
    print(f"{path.name}: {counts.shape} {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
