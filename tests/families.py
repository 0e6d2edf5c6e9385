"""Small language models of several families, without dropout of their own."""

from flax import nnx

from jaxgen.models import gpt2, llama, t5

SHAPE: dict = {"width": 16, "depth": 2, "heads": 2, "init_std": 0.3}


def decoder(vocab, family=gpt2, **options):
    return gpt2.GPT(family.config(vocab, max_positions=16, **SHAPE, **options), rngs=nnx.Rngs(0))


DECODERS = {
    "gpt2": decoder,
    "scanned": lambda vocab: decoder(vocab, scan=True),
    "llama": lambda vocab: decoder(vocab, llama),
}
FAMILIES = {**DECODERS, "t5": lambda vocab: t5.T5(t5.config(vocab, **SHAPE), rngs=nnx.Rngs(0))}
