import http.server
import threading
import time

import pytest

from jaxgen.data import tables, text
from jaxgen.errors import ConfigError


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_host_that_answers_with_whatever_is_reachable(no_proxy):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request, daemon=True)  # answers 501 to HEAD
    thread.start()
    assert tables.reachable(f"http://127.0.0.1:{server.server_port}/x/y", seconds=10.0)
    thread.join()
    server.server_close()
    assert not tables.reachable(f"http://127.0.0.1:{server.server_port}/x/y")


def test_an_unknown_or_silent_host_is_given_up_in_time(no_proxy):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        for host in ("nowhere.invalid", f"127.0.0.1:{silent.getsockname()[1]}"):
            start = time.monotonic()
            assert not tables.reachable(f"http://{host}", seconds=0.5)
            assert time.monotonic() - start < 2


@pytest.mark.parametrize("source", ["hf", "tfds"])
def test_without_a_network_what_is_not_here_is_refused_at_once(
    monkeypatch, tmp_path, capfd, source
):
    import datasets
    import huggingface_hub

    before = (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
    monkeypatch.setattr(tables, "reachable", lambda url: False)
    start = time.monotonic()
    name = "imdb_reviews" if source == "tfds" else "no-one/imdb_reviews"
    with pytest.raises(ConfigError, match=f"data.name is .{name}.*reach") as e:
        text.load(source, name=name, path=str(tmp_path) if source == "tfds" else "")
    assert time.monotonic() - start < 3  # five tries with pauses took 24 seconds, ten took minutes
    assert "\n" not in str(e.value)
    assert "Retry" not in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
    after = (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
    assert after == before


def test_a_name_that_tfds_does_not_know_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no_such_set not found") as e:
        tables.tfds_rows("no_such_set", str(tmp_path))
    assert "\n" not in str(e.value)


def test_a_local_folder_needs_no_network(monkeypatch, tmp_path):
    def asked(url):
        raise AssertionError(url)

    monkeypatch.setattr(tables, "reachable", asked)
    (tmp_path / "train.csv").write_text("text,label\nnull,1\nNA,0\nnan,1\nNone,0\n")
    parts = text.load(
        "hf", name=str(tmp_path), label_field="label", valid_fraction=0.0, test_fraction=0.0
    )
    assert parts["train"].text == ["null", "NA", "nan", "None"]
    assert parts["train"].label.tolist() == [1, 0, 1, 0]


def classed(tmp_path, **splits):
    """A local hub folder with declared classes; returns its path."""
    import datasets

    names = datasets.ClassLabel(names=["bad", "fair", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    for split, label in splits.items():
        rows = {"text": [f"{split} {i}" for i in range(len(label))], "label": label}
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}.parquet")
    return str(tmp_path)


def test_hub_splits_without_classes_are_left_out_where_classes_are_asked_for(tmp_path):
    path = classed(tmp_path, train=[0, 2, 1, 0], test=[-1, -1])
    options = {"valid_fraction": 0.0, "test_fraction": 0.0}
    parts = text.load("hf", name=path, label_field="label", **options)
    assert parts["train"].text == [f"train {i}" for i in range(4)]
    assert parts["train"].label.tolist() == [0, 2, 1, 0]
    assert len(text.load("hf", name=path, **options)["train"]) == 6


def test_a_single_row_without_class_is_named(tmp_path):
    path = classed(tmp_path, train=[0, -1, 1])
    with pytest.raises(ConfigError, match="row 2 is -1, allowed: a class from 0 to 2"):
        text.load("hf", name=path, label_field="label")


def test_tfds_splits_without_classes(tmp_path):
    import numpy as np
    import tensorflow_datasets as tfds

    from jaxgen.data import images

    pixels = np.random.default_rng(0).integers(0, 255, (12, 4, 4, 3), np.uint8)

    class HalfLabelled(tfds.core.GeneratorBasedBuilder):
        pkg_dir_path = tmp_path
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=3)
            image = tfds.features.Tensor(shape=(4, 4, 3), dtype=np.uint8)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._rows(range(8), 2), "test": self._rows(range(8, 12), None)}

        def _rows(self, index, label):
            for i in index:
                yield i, {"image": pixels[i], "label": -1 if label is None else i // 4 * label}

        def _generate_examples(self):
            raise NotImplementedError

    HalfLabelled(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    # The classes are the data set's own numbers, and a limit keeps both that occur.
    parts = images.load("tfds", name="half_labelled", path=str(tmp_path), size=4, limit=4)
    labels = np.concatenate([p.label for p in parts.values()])
    assert sorted(labels.tolist()) == [0, 0, 2, 2]
