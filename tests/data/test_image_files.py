"""Pictures as they are found in files: depths, transparency, orientation, folders, damage."""

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import images
from jaxgen.errors import ConfigError

RAMP = np.tile(np.linspace(0.0, 1.0, 8), (8, 1))


def read_one(tmp_path, picture, name="a.png", channels=1, **options):
    """The array of one picture in a folder of its own, with what Pillow saved of it."""
    picture.save(tmp_path / name, **options)
    parts = images.load("folder", path=str(tmp_path), size=8, channels=channels)
    (tmp_path / name).unlink()
    return np.concatenate([p.image for p in parts.values()])[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("pixels", "name"),
    [
        ((RAMP * 65_535).astype(np.uint16), "a.png"),
        ((RAMP * 65_535).astype(np.uint16), "a.tiff"),
        ((RAMP * 65_535).astype(np.int32), "a.tiff"),
        (RAMP.astype(np.float32), "a.tiff"),
    ],
)
def test_deep_greys_keep_their_values(tmp_path, pixels, name, channels):
    got = read_one(tmp_path, Image.fromarray(pixels), name, channels)
    assert got.shape == (8, 8, channels)
    assert got == pytest.approx(np.repeat(RAMP[..., None], channels, -1), abs=1 / 65_535)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (255 * RAMP.astype(np.float32), "values from 0 to 255, where 0 to 1"),
        (RAMP.astype(np.float32) - 0.5, "values from -0.5 to 0.5"),
        (np.full((8, 8), np.nan, np.float32), "values from nan"),
        ((RAMP * 2**30).astype(np.int32), "where 0 to 65535"),
    ],
)
def test_values_beyond_the_range_are_refused(tmp_path, pixels, message):
    with pytest.raises(ConfigError, match=rf"a\.tiff'.*{message}"):
        read_one(tmp_path, Image.fromarray(pixels), "a.tiff")


def test_deep_pictures_are_resized_within_the_range(tmp_path):
    wide = np.repeat((RAMP > 0.5) * np.uint16(65_535), 3, 1).repeat(3, 0)
    got = read_one(tmp_path, Image.fromarray(wide))
    assert 0 <= got.min() < 0.01 < 0.99 < got.max() <= 1  # Lanczos overshoots at edges
    assert got.mean() == pytest.approx(0.5, abs=0.01)


def palette():
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    return picture


# Red that is half transparent, on white; and things that are not there at all.
@pytest.mark.parametrize(
    ("picture", "options", "rgb"),
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 128)), {}, (255, 127, 127)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), {}, (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (1, 2, 3, 255)), {}, (1, 2, 3)),
        (Image.new("LA", (8, 8), (0, 128)), {}, (127, 127, 127)),
        (palette(), {}, (255, 0, 0)),
        (palette(), {"transparency": 0}, (255, 255, 255)),
        (palette(), {"transparency": bytes([128, 255])}, (255, 127, 127)),
        (Image.new("L", (8, 8), 7), {"transparency": 7}, (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 7, np.uint16)), {"transparency": 7}, (255, 255, 255)),
        (Image.new("1", (8, 8), 1), {}, (255, 255, 255)),
        (Image.new("1", (8, 8), 0), {}, (0, 0, 0)),
    ],
)
def test_transparent_pictures_lie_on_white(tmp_path, picture, options, rgb):
    got = read_one(tmp_path, picture, channels=3, **options) * 255
    assert got == pytest.approx(np.broadcast_to(rgb, got.shape), abs=1e-3)
    grey = read_one(tmp_path, picture, channels=1, **options) * 255
    want = np.array(rgb) @ [0.299, 0.587, 0.114]
    assert grey == pytest.approx(np.full(grey.shape, want), abs=0.5)


@pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
def test_cmyk(tmp_path, name):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    got = read_one(tmp_path, red, name, channels=3)
    assert got == pytest.approx(np.broadcast_to([1, 0, 0], got.shape), abs=0.02)


@pytest.mark.parametrize(("turn", "rotation"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_pictures_are_turned_as_exif_says(tmp_path, turn, rotation):
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    got = read_one(tmp_path, Image.fromarray(pixels), exif=exif)
    assert np.array_equal(np.round(got[..., 0] * 255), np.rot90(pixels, rotation))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tiff"])
def test_of_several_frames_the_first_is_read(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), c) for c in ((255, 0, 0), (0, 255, 0))]
    got = read_one(tmp_path, frames[0], name, 3, save_all=True, append_images=frames[1:])
    assert got == pytest.approx(np.broadcast_to([1, 0, 0], got.shape), abs=0.02)


def noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def labels_of(parts):
    return sorted(np.concatenate([p.label for p in parts.values()]).tolist())


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    root = tmp_path / ".cache" / "pictures"  # hidden above the folder is no matter
    for label in ("cat", "dog", ".ipynb_checkpoints"):
        noise(root / label / "0.png", len(label))
    noise(root / "cat" / ".thumbs" / "1.png", 9)
    noise(root / ".hidden.png", 10)
    (root / "cat" / "._0.png").write_bytes(b"\x00\x05\x16\x07")
    (root / "cat" / "folder.png").mkdir()
    assert labels_of(images.load("folder", path=str(root), size=8)) == [0, 1]


def test_classes_are_numbered_once_over_folders_of_splits(tmp_path):
    places = ("train/cat/0", "train/dog/0", "train/eel/0", "test/dog/1", "test/eel/1")
    for i, place in enumerate(places):
        noise(tmp_path / f"{place}.png", i)
    assert labels_of(images.load("folder", path=str(tmp_path), size=8)) == [0, 1, 1, 2, 2]


def test_splits_are_no_classes_and_a_class_for_some_is_refused(tmp_path):
    for i, place in enumerate(("train/0", "train/1", "test/2")):
        noise(tmp_path / f"{place}.png", i)
    assert images.load("folder", path=str(tmp_path), size=8)["train"].label is None
    noise(tmp_path / "cat" / "3.png", 3)
    noise(tmp_path / "4.png", 4)
    with pytest.raises(ConfigError, match=r"4\.png', allowed: .*or none"):
        images.load("folder", path=str(tmp_path), size=8)


@pytest.mark.parametrize("source", ["folder", "hf"])
def test_a_limit_keeps_all_classes(tmp_path, source):
    for label, count in (("a", 9), ("b", 9), ("c", 2)):
        for i in range(count):
            noise(tmp_path / label / f"{i}.png", ord(label) * 100 + i)
    options = {"source": source, "path": str(tmp_path), "size": 8, "limit": 8}
    options |= {"name": "imagefolder"} if source == "hf" else {}
    parts = images.load(**options)
    assert labels_of(parts) == [0, 0, 0, 1, 1, 1, 2, 2]
    again = images.load(**options)
    assert all(np.array_equal(parts[k].image, again[k].image) for k in parts)


def test_a_limit_of_digits_takes_ten_of_each():
    parts = images.load("digits", limit=100)
    assert np.bincount(labels_of(parts)).tolist() == [10] * 10


def claimed(path, width, height):
    """A PNG of a few bytes whose header claims a size."""
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_giant_pictures_are_read_up_to_a_bound(tmp_path, monkeypatch, recwarn):
    before = Image.MAX_IMAGE_PIXELS
    claimed(tmp_path / "bomb.png", 60_000, 60_000)
    with pytest.raises(ConfigError, match=r"bomb\.png.*3600000000 pixels"):
        images.load("folder", path=str(tmp_path), size=8)
    (tmp_path / "bomb.png").unlink()
    # Half of the bound is where Pillow warns, above it where it refuses.
    monkeypatch.setattr(images, "MAX_PIXELS", 8 * 12)
    Image.new("L", (12, 8), 255).save(tmp_path / "a.png")
    parts = images.load("folder", path=str(tmp_path), size=8, channels=1)
    assert [np.mean(p.image) for p in parts.values() if len(p)] == [1.0]
    Image.new("L", (13, 8), 255).save(tmp_path / "b.png")
    with pytest.raises(ConfigError, match=r"b\.png.*104 pixels"):
        images.load("folder", path=str(tmp_path), size=8)
    assert before == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tiff"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_pictures_of_every_kind_are_named(tmp_path, name, share):
    noise(tmp_path / name, 0)
    raw = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ConfigError, match=rf"data\.path is '.*{name}', allowed: a readable") as e:
        images.load("folder", path=str(tmp_path), size=8)
    assert "\n" not in str(e.value)


def test_one_picture_and_a_bad_limit(tmp_path):
    noise(tmp_path / "a.png", 0)
    parts = images.load("folder", path=str(tmp_path), size=8)
    assert sorted(map(len, parts.values())) == [0, 0, 1]
    with pytest.raises(ConfigError, match=r"data\.limit is -1"):
        images.load("folder", path=str(tmp_path), size=8, limit=-1)


@pytest.mark.parametrize(
    ("pixels", "want"),
    [
        (np.full((9, 8, 3), 51, np.uint8), 0.2),
        (np.full((1, 8, 1), 51, np.uint8), 0.2),
        (np.full((8, 8), 13_107, np.uint16), 0.2),
        (np.full((9, 9, 3), 0.2, np.float32), 0.2),
        (np.ones((8, 8), bool), 1.0),
    ],
)
def test_arrays_of_rows(pixels, want):
    for channels in (1, 3):
        got = images._to_array(pixels, 8, channels)
        got = got / 255 if got.dtype == np.uint8 else got
        assert got == pytest.approx(np.full((8, 8, channels), want), abs=1e-3)


def test_hub_rows_without_a_label_or_a_picture_are_named(tmp_path):
    import datasets

    pixels = [Image.new("L", (8, 8), i) for i in range(3)]
    for rows, message in (
        ({"image": pixels, "label": ["a", None, "b"]}, "row 2 is 'a missing label'"),
        ({"image": [pixels[0], None, pixels[1]], "label": [0, 1, 0]}, r"row 2', allowed: a read"),
    ):
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.Value("string" if "a" in rows["label"] else "int64"),
            }
        )
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
        with pytest.raises(ConfigError, match=message):
            images.load("hf", name=str(tmp_path), size=8)
