"""Decoder-only language models in torch with a static cache, with the names of ours: GPT-2 and Llama.

Decoding is the usual fast form: keys and values in buffers of fixed size, one compiled function a token,
replayed as a CUDA graph.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch_nets import copy_weights

from jaxgen.nn.rotary import frequencies

ACTIVATIONS = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
}


def check(config) -> None:
    """Raises ValueError for what is not written here."""
    s = config.stack
    plain = s.causal and s.pre_norm and not (
        s.parallel or s.qk_norm or s.cross or s.scan or s.experts or s.relative_buckets
        or s.scale_by_layer or s.scale is not None or any(s.windows or ())
    )  # fmt: skip
    turns = s.rotary is None or not (s.rotary.dim or s.rotary.interleaved)
    if not (plain and turns and config.tied and not config.embed_width):
        raise ValueError("the peer has GPT-2's and Llama's form alone")


def norm_of(s) -> nn.Module:
    if s.norm == "rms":
        return nn.RMSNorm(s.width, eps=s.norm_eps)
    return nn.LayerNorm(s.width, eps=s.norm_eps)


class Attention(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s, inner = s, s.heads * s.head_dim
        if s.fused_qkv:
            self.qkv = nn.Linear(s.width, inner + 2 * s.kv_width, s.qkv_bias)
        else:
            self.query = nn.Linear(s.width, inner, s.qkv_bias)
            self.key = nn.Linear(s.width, s.kv_width, s.qkv_bias)
            self.value = nn.Linear(s.width, s.kv_width, s.qkv_bias)
        self.out = nn.Linear(inner, s.width, s.out_bias)

    def forward(self, x, place, mask, turn):
        s, (b, t, _) = self.s, x.shape
        if s.fused_qkv:
            q, k, v = self.qkv(x).split([s.heads * s.head_dim, s.kv_width, s.kv_width], -1)
        else:
            q, k, v = self.query(x), self.key(x), self.value(x)
        q, k, v = (a.view(b, t, -1, s.head_dim).transpose(1, 2) for a in (q, k, v))
        if turn is not None:
            q, k = rotated(q, *turn), rotated(k, *turn)
        self.keys[:, :, place] = k
        self.values[:, :, place] = v
        y = F.scaled_dot_product_attention(
            q, self.keys, self.values, attn_mask=mask, enable_gqa=s.kv_heads != s.heads
        )
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


def rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class FeedForward(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.act = ACTIVATIONS[s.activation]
        self.up = nn.Linear(s.width, s.mlp_width, s.mlp_bias)
        self.gate = nn.Linear(s.width, s.mlp_width, s.mlp_bias) if s.gated else None
        self.down = nn.Linear(s.mlp_width, s.width, s.mlp_bias)

    def forward(self, x):
        h = self.up(x)
        return self.down(self.act(h) if self.gate is None else self.act(self.gate(x)) * h)


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.norm1, self.norm2 = norm_of(s), norm_of(s)
        self.attention, self.mlp = Attention(s), FeedForward(s)

    def forward(self, h, *where):
        h = h + self.attention(self.norm1(h), *where)
        return h + self.mlp(self.norm2(h))


class Stack(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.blocks = nn.ModuleList([Block(s) for _ in range(s.depth)])
        self.norm = norm_of(s)


class GPT(nn.Module):
    """Of a `jaxgen.models.gpt2.GPT`, with its weights; `start` before use."""

    def __init__(self, model):
        super().__init__()
        config = model.config
        check(config)
        self.s = s = config.stack
        self.tokens = nn.Embedding(config.vocab_size, s.width)
        learned = config.learned_positions
        self.positions = nn.Embedding(config.max_positions, s.width) if learned else None
        self.stack = Stack(s)
        copy_weights(model, self)
        self.requires_grad_(False)

    def start(self, batch: int, slots: int) -> None:
        """Empty buffers for keys and values."""
        weight = self.tokens.weight
        for block in self.stack.blocks:
            for name in ("keys", "values"):
                shape = (batch, self.s.kv_heads, slots, self.s.head_dim)
                empty = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
                block.attention.register_buffer(name, empty, persistent=False)
        self.slots = torch.arange(slots, device=weight.device)
        if self.s.rotary is not None:
            f = frequencies(self.s.rotary, self.s.head_dim)
            self.freqs = torch.tensor(f, dtype=torch.float32, device=weight.device)

    def forward(self, tokens, place):
        """Logits of the last token of tokens [B, T], which go to the slots `place` [T]."""
        h, turn = self.tokens(tokens), None
        if self.positions is not None:
            h = h + self.positions(place)
        if self.s.rotary is not None:
            angles = place[:, None].float() * self.freqs
            turn = angles.cos().to(h.dtype), angles.sin().to(h.dtype)
        mask = (self.slots <= place[:, None])[None, None]
        for block in self.stack.blocks:
            h = block(h, place, mask, turn)
        return F.linear(self.stack.norm(h[:, -1]), self.tokens.weight).float()


def step_of(net: GPT):
    """(token [B, 1], place [1]) -> (the likeliest next one, the next place)."""

    def step(token, place):
        return net(token, place).argmax(-1, keepdim=True), place + 1

    return step


@torch.no_grad()
def greedy(step, token, place, count: int):
    """That many tokens from the likeliest of a prompt on; the buffers hold the prompt."""
    out = []
    for _ in range(count):
        out.append(token)
        token, place = step(token, place)
        # What a CUDA graph returns is overwritten by its next replay.
        token, place = token.clone(), place.clone()
    return torch.cat(out, 1)
