import numpy as np
import pytest
from PIL import Image

from jaxgen.data import images
from jaxgen.errors import ConfigError


def test_digits_are_the_real_ones_and_splits_are_fixed():
    parts = images.load("digits")
    sizes = {k: len(v) for k, v in parts.items()}
    # By the hash of each image: these numbers may never change.
    assert sizes == {"train": 1206, "valid": 206, "test": 385}
    train = parts["train"]
    assert train.image.shape[1:] == (8, 8, 1)
    assert train.image.dtype == np.float32
    assert train.image.min() == 0
    assert train.image.max() == 1
    assert set(train.label) == set(range(10))
    whole = sorted(p.tobytes() for part in parts.values() for p in part.image)
    from sklearn.datasets import load_digits

    real = sorted((i / 16).astype(np.float32).tobytes() for i in load_digits().images)
    assert whole == real


def random_images(n, seed=0):
    image = np.random.default_rng(seed).random((n, 4, 4, 1)).astype(np.float32)
    return images.Images(image, np.arange(n, dtype=np.int32))


def test_split_ignores_order_and_keeps_duplicates_together():
    data = random_images(500)
    order = np.random.default_rng(1).permutation(500)
    twice = images.Images(
        np.concatenate([data.image, data.image[order]]),
        np.concatenate([data.label, data.label[order]]),
    )
    parts = images.split(twice, valid_fraction=0.2, test_fraction=0.3)
    labels = {k: set(v.label) for k, v in parts.items()}
    assert not labels["train"] & labels["test"]
    assert not labels["train"] & labels["valid"]
    assert not labels["valid"] & labels["test"]
    for part in parts.values():
        assert all((part.label == v).sum() == 2 for v in set(part.label))
    # 500 draws: five standard deviations of a binomial share.
    assert len(labels["test"]) / 500 == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 500))


def write_folder(root, n=30):
    rng = np.random.default_rng(0)
    for i in range(n):
        folder = root / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (12, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_folder_crops_resizes_and_labels(tmp_path):
    write_folder(tmp_path)
    parts = images.load("folder", path=str(tmp_path), size=8)
    total = sum(len(p) for p in parts.values())
    assert total == 30
    assert parts["train"].image.shape[1:] == (8, 8, 3)
    assert set(np.concatenate([p.label for p in parts.values()])) == {0, 1}
    grey = images.load("folder", path=str(tmp_path), size=6, channels=1, limit=10)
    assert sum(len(p) for p in grey.values()) == 10
    assert grey["train"].image.shape[1:] == (6, 6, 1)


def test_square_image_of_the_right_size_is_read_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    for name in "abcdefghij":
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    parts = images.load("folder", path=str(tmp_path), size=8)
    image = np.concatenate([p.image for p in parts.values()])[0]
    assert np.array_equal(np.round(image * 255), pixels)
    assert parts["train"].label is None


def test_unreadable_image_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "cat" / "broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(ConfigError, match=r"broken\.png"):
        images.load("folder", path=str(tmp_path), size=8)


def test_truncated_image_is_named(tmp_path):
    write_folder(tmp_path)
    file = tmp_path / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"1\.png"):
        images.load("folder", path=str(tmp_path), size=8)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"source": "folder", "path": "/nowhere", "size": 8}, "'/nowhere', allowed: an existing"),
        ({"source": "folder", "path": "", "size": 8}, "existing folder"),
        ({"source": "folder", "path": "x"}, "data.size is 0"),
        ({"source": "mnist"}, "one of digits, folder, tfds, hf"),
        ({"source": "digits", "size": 16}, "8x8"),
        ({"source": "digits", "test_fraction": 0.0}, "test above 0"),
        ({"source": "digits", "channels": 2}, "data.channels is 2"),
        ({"source": "hf", "name": "/nowhere/at/all", "size": 8}, "`datasets` can load"),
        ({"source": "tfds", "name": "no_such_set", "size": 8}, "tfds can prepare"),
    ],
)
def test_bad_settings_are_one_line(kwargs, message):
    with pytest.raises(ConfigError, match="data") as e:
        images.load(**kwargs)
    assert message in str(e.value)


def test_hugging_face_local_folder(tmp_path):
    write_folder(tmp_path)
    parts = images.load("hf", name="imagefolder", path=str(tmp_path), size=8)
    assert sum(len(p) for p in parts.values()) == 30
    assert parts["train"].image.shape[1:] == (8, 8, 3)
    assert set(np.concatenate([p.label for p in parts.values()])) == {0, 1}


def test_tfds_prepared_locally(tmp_path):
    """A tfds builder over local images, written and read as array_record without TensorFlow."""
    import tensorflow_datasets as tfds

    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)

    class TinyPictures(tfds.core.GeneratorBasedBuilder):
        pkg_dir_path = tmp_path
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8),
                        "label": tfds.features.ClassLabel(num_classes=2),
                    }
                )
            )

        def _split_generators(self, dl_manager):
            return {"train": self._rows()}

        @staticmethod
        def _rows():
            for i, image in enumerate(pixels):
                yield i, {"image": image, "label": i % 2}

        def _generate_examples(self):
            raise NotImplementedError

    TinyPictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    parts = images.load("tfds", name="tiny_pictures", path=str(tmp_path), size=8)
    got = np.concatenate([p.image for p in parts.values()])
    assert sorted(np.round(g * 255).astype(np.uint8).tobytes() for g in got) == sorted(
        p.tobytes() for p in pixels
    )
