"""Tokenizers in GGUF files that the tests write: how texts are cut, special tokens, refusals."""

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers

gguf = pytest.importorskip("gguf", reason="needs the package gguf: the extra `gguf`")

BYTES = sorted(ByteLevel.alphabet())
SPECIAL = ["<|begin|>", "<|end|>"]
MERGES = ["1 2", "12 3", "123 4", "a b", "ab c", "' L", "'L L", "x 1", "Ġ a"]
TOKENS = [*SPECIAL, *BYTES, *(m.replace(" ", "") for m in MERGES), "[TOOL]", "whole"]
KINDS = [3, 3, *[1] * (len(BYTES) + len(MERGES)), 4, 1]


def write(path, pre, *, model="gpt2", add_bos=None, tokens=TOKENS, kinds=KINDS):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model(model)
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(MERGES)
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    if add_bos is not None:
        w.add_add_bos_token(add_bos)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizers.tokens(tokenizer, [text])[0])


# Where digits may be merged: all of a number, none, at most three, none.
CUTS = {
    "gpt-2": ["x", "1234", "1"],
    "smollm": ["x", "1", "2", "3", "4", "1"],
    "llama-bpe": ["x", "123", "4", "1"],
    "qwen2": ["x", "1", "2", "3", "4", "1"],
}


@pytest.mark.parametrize("pre", list(CUTS))
def test_numbers_and_endings(pre, tmp_path):
    tokenizer = tokenizers.load(write(tmp_path / "t.gguf", pre))
    assert pieces(tokenizer, "x12341") == CUTS[pre]
    # Endings in capitals are words of their own for Llama 3 and Qwen2 alone.
    assert ("'LL" in pieces(tokenizer, "abc'LL")) == (pre in ("llama-bpe", "qwen2"))
    assert pieces(tokenizer, " abc") == ["Ġ", "abc"]
    for text in ("naïve 日本語\n\n\tx  12", " leading", "a\r\nb", ""):
        assert tokenizer.decode(tokenizers.tokens(tokenizer, [text])[0]) == text


def test_special_tokens(tmp_path):
    tokenizer = tokenizers.load(write(tmp_path / "t.gguf", "llama-bpe"))
    assert tokenizers.special_ids(tokenizer) == (0, 1, 1)
    ids = tokenizer("a[TOOL]<|end|>b")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|begin|>", "a", "[TOOL]", "<|end|>", "b"]
    # Text is data: what spells a special token is read as any other text.
    assert tokenizers.tokens(tokenizer, ["<|end|>"])[0][0] != 1
    # A word that is an entry is one token for Llama 3, without merges that lead to it.
    assert pieces(tokenizer, "whole") == ["whole"]
    smollm = tokenizers.load(write(tmp_path / "s.gguf", "smollm"))
    assert smollm("a")["input_ids"] == [TOKENS.index("a")]
    assert pieces(smollm, "whole") == list("whole")
    begun = tokenizers.load(write(tmp_path / "b.gguf", "smollm", add_bos=True))
    assert begun("a")["input_ids"] == [0, TOKENS.index("a")]


def test_refusals(tmp_path):
    for options, field in (
        ({"model": "llama"}, r"tokenizer\.ggml\.model is 'llama', allowed: 'gpt2'"),
        ({"pre": "tekken"}, r"tokenizer\.ggml\.pre is 'tekken', allowed: one of gpt-2"),
        ({"kinds": KINDS[:-1]}, r"tokenizer\.ggml\.tokens"),
    ):
        path = write(tmp_path / "t.gguf", **{"pre": "smollm", **options})
        with pytest.raises(ConfigError, match=field):
            tokenizers.load(path)
