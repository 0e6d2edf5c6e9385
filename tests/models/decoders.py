"""Small random checkpoints of decoder-only families, made and saved by transformers."""

import numpy as np
import pytest

EOS, PAD, V = 1, 0, 61
_IDS = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": 2}
_LLAMA = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "initializer_range": 0.3, **_IDS,
}  # fmt: skip
_OPT = {
    "vocab_size": V, "hidden_size": 32, "ffn_dim": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "init_std": 0.3, **_IDS,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e4, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
# name -> (transformers' classes, fields)
KINDS = {
    "llama": ("Llama", _LLAMA),
    "llama3": (
        "Llama",
        {
            **_LLAMA, "num_key_value_heads": 1, "head_dim": 10, "rope_parameters": LLAMA3,
            "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
        },
    ),
    "mistral": ("Mistral", {**_LLAMA, "sliding_window": 5}),
    "qwen2": (
        "Qwen2",
        {
            **_LLAMA, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0},
        },
    ),
    "qwen3": ("Qwen3", {**_LLAMA, "head_dim": 12, "tie_word_embeddings": True}),
    "gptj": (
        "GPTJ",
        {
            "vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64,
            "rotary_dim": 6, "initializer_range": 0.3, **_IDS,
        },
    ),
    "opt": ("OPT", _OPT),
    "opt_350m": (
        "OPT",
        {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 20, "dropout": 0.0},
    ),
}  # fmt: skip


def make(kind, folder, seed=0):
    """A random model of transformers, saved in a folder."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    name, fields = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**fields)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide a mix-up
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    return model


def logits(model, tokens, mask=None):
    """Those of a model of transformers, as a tensor."""
    import torch

    given = {} if mask is None else {"attention_mask": torch.tensor(mask.astype(np.int64))}
    return model(input_ids=torch.tensor(tokens), **given).logits


def generate(model, tokens, mask, n, **options):
    """What a model of transformers writes without sampling, padded to n tokens."""
    import torch

    ids, m = torch.tensor(tokens), torch.tensor(mask.astype(np.int64))
    with torch.no_grad():
        out = model.generate(ids, attention_mask=m, max_new_tokens=n, do_sample=False, **options)
    out = out[:, tokens.shape[1] :].numpy()
    after = np.cumsum(out == EOS, 1) - (out == EOS) > 0
    out = np.where(after, PAD, out)
    return np.pad(out, ((0, 0), (0, n - out.shape[1])), constant_values=PAD)
