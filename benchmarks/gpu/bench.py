"""What one GPU gives: train steps, losses, attention, experts, decoding and the latent ODE, against torch.

    PYTHONPATH=. python benchmarks/gpu/bench.py --json gpu.json
    PYTHONPATH=. python benchmarks/gpu/bench.py --small       # on a CPU: tiny sizes, all gates

Ours and the peers (torch, eager and by torch.compile) run in this process, in turns: A B A B .. Before timing
they have to agree. A part that fails says why and the others go on; parts that the budget of seconds does not
reach are named. Results so far are printed and written also where the budget ends in the middle of a part.
Without torch the peers' columns say so.
"""

import argparse
import importlib
import os
import pathlib
import sys
import threading
import time
import traceback

BEGIN = time.monotonic()  # the budget counts imports too

# In order of value: what a short budget should reach comes first.
PARTS = {
    "eisl": "sequence_loss",
    "moe": "experts",
    "attention": "attention_kernels",
    "celeba64": "image_steps",
    "gpt2": "decode",
    "latent_ode": "latents",
    "eisl_128k": "sequence_loss",
    "digits": "image_steps",
    "smollm2": "decode",
    "celeba64_256": "image_steps",
}


def load_torch(platform: str) -> tuple[object, str]:
    """(torch, "") or (None, why not)."""
    try:
        import torch
    except ImportError:
        return None, "no torch"
    if platform == "gpu" and not torch.cuda.is_available():
        return None, "torch sees no GPU"
    return torch, ""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=240.0, help="seconds, in all")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), help="by default all, in order")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--json", default="", help="where results are written")
    parser.add_argument("--gpt2", default="", help="folder or file of weights; random without")
    parser.add_argument("--smollm2", default="", help="as --gpt2")
    args = parser.parse_args()
    # The larger sizes of two parts are the same as the others where all is small.
    twice = {"eisl_128k", "celeba64_256"} if args.small else set()
    args.parts = args.parts or [part for part in PARTS if part not in twice]
    return args


def main() -> int:
    args = parse()
    # Before jax is imported: both libraries share the card's memory, and nothing was compiled before.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if args.small:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    import jax
    import measure
    from report import Report

    platform = jax.default_backend()
    torch, why = load_torch(platform)
    card = measure.card(args.small)
    report = Report(
        card=card,
        platform=platform,
        torch=torch,
        no_peers=why,
        small=args.small,
        files={"gpt2": args.gpt2, "smollm2": args.smollm2},
        deadline=BEGIN + args.budget,
        path=pathlib.Path(args.json) if args.json else None,
    )
    report.say(report.heading())
    waiting = list(args.parts)

    def stop() -> None:
        spent, begun = f"the budget of {args.budget:.0f} s was spent", int(report.begun)
        report.skip(waiting[:begun], f"was cut off: {spent}")
        report.skip(waiting[begun:], f"was skipped: {spent}")
        report.close()
        os._exit(report.code())  # a compilation cannot be interrupted otherwise

    timer = threading.Timer(max(0.0, report.left()), stop)
    timer.daemon = True
    timer.start()
    while waiting:
        part, report.begun = waiting[0], True
        begin = time.monotonic()
        try:
            importlib.import_module(PARTS[part]).run(part, report)
        except Exception as e:
            report.fail(part, e)
            traceback.print_exc(file=sys.stderr)
        finally:
            jax.clear_caches()
            if report.made:
                report.made.clear()
                torch.compiler.reset()
            if torch is not None and report.device == "cuda":
                torch.cuda.empty_cache()
        report.say(f"{part}: {time.monotonic() - begin:.0f} s")
        waiting.pop(0)
    timer.cancel()
    report.close()
    return report.code()


if __name__ == "__main__":
    sys.exit(main())
