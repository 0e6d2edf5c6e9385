"""Names of tensors in Hugging Face's files: one table for each family, and what files add to them.

Files differ in more than the family: wrappers (`module.`, `model.`, `_orig_mod.`) or a missing
`transformer.` at the front, `gamma` and `beta` of old BERTs, buffers, copies of tied weights, heads of
fine-tuned models. `canonical` brings all to the names of the tables.
"""

import re
from collections.abc import Iterable

from jaxgen.errors import ConfigError

# Rules: our path -> name in the file. `{}` takes the layer. A trailing "T" marks a transposed matrix
# (PyTorch's Linear stores [out, in]).
Rules = tuple[tuple[str, str], ...]


def _linear(ours: str, theirs: str, *, transposed: bool = True) -> Rules:
    return (
        (rf"{ours}/kernel", f"{theirs}.weight" + ("|T" if transposed else "")),
        (rf"{ours}/bias", f"{theirs}.bias"),
    )


def _norm(ours: str, theirs: str) -> Rules:
    return ((rf"{ours}/scale", f"{theirs}.weight"), (rf"{ours}/bias", f"{theirs}.bias"))


def _gpt_rules(layer: str, attention: Rules, transposed: bool) -> Rules:
    block = r"stack/blocks/(\d+)"
    return (
        (r"tokens/embedding", "transformer.wte.weight"),
        (r"positions/embedding", "transformer.wpe.weight"),
        (r"head/kernel", "lm_head.weight|T"),
        *_norm(f"{block}/norm1", f"{layer}.ln_1"),
        *attention,
        *_norm(f"{block}/norm2", f"{layer}.ln_2"),
        *_linear(f"{block}/mlp/up", f"{layer}.mlp.c_fc", transposed=transposed),
        *_linear(f"{block}/mlp/down", f"{layer}.mlp.c_proj", transposed=transposed),
        *_norm("stack/norm", "transformer.ln_f"),
    )


def gpt2_rules() -> Rules:
    """GPT-2: matrices as [in, out], queries, keys and values in one."""
    ours, theirs = r"stack/blocks/(\d+)/attention", "transformer.h.{}.attn"
    attention = (
        *_linear(f"{ours}/qkv", f"{theirs}.c_attn", transposed=False),
        *_linear(f"{ours}/out", f"{theirs}.c_proj", transposed=False),
    )
    return _gpt_rules("transformer.h.{}", attention, transposed=False)


def gpt_neo_rules() -> Rules:
    """GPT-Neo."""
    ours, theirs = r"stack/blocks/(\d+)/attention", "transformer.h.{}.attn.attention"
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    attention: Rules = ()
    for mine, name in names.items():
        attention += _linear(f"{ours}/{mine}", f"{theirs}.{name}")
    return _gpt_rules("transformer.h.{}", attention, transposed=True)


def bert_rules() -> Rules:
    """BERT, with pooler and language-model head."""
    block, layer = r"stack/blocks/(\d+)", "bert.encoder.layer.{}"
    rules: Rules = (
        (r"tokens/embedding", "bert.embeddings.word_embeddings.weight"),
        (r"positions/embedding", "bert.embeddings.position_embeddings.weight"),
        (r"types/embedding", "bert.embeddings.token_type_embeddings.weight"),
        *_norm("norm", "bert.embeddings.LayerNorm"),
        *_linear("pooler", "bert.pooler.dense"),
        *_linear("mlm/transform", "cls.predictions.transform.dense"),
        *_norm("mlm/norm", "cls.predictions.transform.LayerNorm"),
        (r"mlm/bias", "cls.predictions.bias"),
    )
    for name in ("query", "key", "value"):
        rules += _linear(f"{block}/attention/{name}", f"{layer}.attention.self.{name}")
    return (
        *rules,
        *_linear(f"{block}/attention/out", f"{layer}.attention.output.dense"),
        *_norm(f"{block}/norm1", f"{layer}.attention.output.LayerNorm"),
        *_linear(f"{block}/mlp/up", f"{layer}.intermediate.dense"),
        *_linear(f"{block}/mlp/down", f"{layer}.output.dense"),
        *_norm(f"{block}/norm2", f"{layer}.output.LayerNorm"),
    )


def t5_rules(gated: bool) -> Rules:
    """T5; `gated` as version 1.1 has its feed-forward layers."""
    rules: Rules = (
        (r"tokens/embedding", "shared.weight"),
        (r"head/kernel", "lm_head.weight|T"),
    )
    for stack in ("encoder", "decoder"):
        block, layer = rf"{stack}/blocks/(\d+)", stack + ".block.{}.layer"
        attention = [("attention", f"{layer}.0.SelfAttention")]
        norms = [("norm1", f"{layer}.0.layer_norm")]
        last = 1
        if stack == "decoder":
            attention.append(("cross", f"{layer}.1.EncDecAttention"))
            norms.append(("norm_cross", f"{layer}.1.layer_norm"))
            last = 2
        norms.append(("norm2", f"{layer}.{last}.layer_norm"))
        for ours, theirs in attention:
            for mine, name in {"query": "q", "key": "k", "value": "v", "out": "o"}.items():
                rules += _linear(f"{block}/{ours}/{mine}", f"{theirs}.{name}")
        for ours, theirs in norms:
            rules += _norm(f"{block}/{ours}", theirs)
        up = "wi_1" if gated else "wi"
        for ours, theirs in (("up", up), ("gate", "wi_0"), ("down", "wo")):
            rules += _linear(f"{block}/mlp/{ours}", f"{layer}.{last}.DenseReluDense.{theirs}")
        rules += _norm(f"{stack}/norm", f"{stack}.final_layer_norm")
        rules += (
            (
                f"{stack}/relative/embedding",
                f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            ),
        )
    return rules


def file_name(path: str, table: Rules) -> tuple[str, bool]:
    """(name in the file, whether it is transposed there) of one of our parameter paths.

    Raises:
      KeyError: for a path that no rule matches.
    """
    for pattern, name in table:
        match = re.fullmatch(pattern, path)
        if match:
            plain, _, flag = name.format(*match.groups()).partition("|")
            return plain, flag == "T"
    raise KeyError(path)


# Of each model type: what the names of the backbone begin with, and a name that tells where it is.
BACKBONES = {
    "gpt2": ("transformer.", "wpe.weight"),
    "gpt_neo": ("transformer.", "wpe.weight"),
    "bert": ("bert.", "embeddings.position_embeddings.weight"),
    "t5": ("", "encoder.final_layer_norm.weight"),
}

# Heads that stand beside a backbone. Those of `OTHER_HEADS` are none of our models' and are not read.
OTHER_HEADS = re.compile(
    r"(classifier|classification_head|score|qa_outputs|multiple_choice_head|v_head|summary"
    r"|cls\.seq_relationship)\..*"
)
_HEADS = re.compile(rf"{OTHER_HEADS.pattern}|(lm_head|cls)\..*")

# Buffers, and a bias that t5-small, t5-base and t5-large hold and no T5 uses.
IGNORED = re.compile(
    r"(.*\.)?attn\.(attention\.)?(bias|masked_bias)"
    r"|bert\.embeddings\.(position_ids|token_type_ids)"
    r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)

# (copy that a file may hold of a tied weight, or hold in its place; that weight).
COPIES = (
    ("encoder.embed_tokens.weight", "shared.weight"),
    ("decoder.embed_tokens.weight", "shared.weight"),
    ("lm_head.weight", "shared.weight"),
    ("lm_head.weight", "transformer.wte.weight"),
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
)

# Put into names by torch.compile, FSDP and activation checkpointing.
_INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def canonical(names: Iterable[str], kind: str) -> dict[str, str]:
    """{name in the file: name in our tables} of one model's tensors.

    Args:
      kind: the model type.

    Raises:
      ConfigError: two models in the file, or two tensors for one name.
    """
    base, anchor = BACKBONES[kind]
    plain = {n: _INSERTED.sub("", n) for n in sorted(names)}
    for n, p in plain.items():
        old = re.fullmatch(r"(.*\bLayerNorm)\.(gamma|beta)", p)
        if old:
            plain[n] = old[1] + (".weight" if old[2] == "gamma" else ".bias")
    ends = {p.removesuffix(anchor) for p in plain.values() if f".{p}".endswith(f".{anchor}")}
    if len(ends) > 1:
        raise ConfigError("weights", f"several models: {sorted(ends)}", "one model in a folder")
    guess = base if any(p.startswith(base) for p in plain.values()) else ""
    inner = ends.pop() if ends else guess
    # T5's classifiers have a `transformer.` of their own, its other models none.
    outer = inner.removesuffix(base or "transformer.")
    out: dict[str, str] = {}
    seen: dict[str, str] = {}
    for n, p in plain.items():
        rest = p.removeprefix(outer)
        if not _HEADS.fullmatch(rest) and p.startswith(inner):
            rest = base + p.removeprefix(inner)
        if rest in seen:
            raise ConfigError("weights", f"{seen[rest]} and {n}", "one tensor for each name")
        seen[rest] = n
        out[n] = rest
    return out
