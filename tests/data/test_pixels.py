"""Images that stay bytes until rows are asked for."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen.data import images, pipeline
from jaxgen.data.pixels import Pixels
from jaxgen.evaluators.common import batched_apply
from jaxgen.metrics import floors

LEVELS = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "rows", [3, -1, slice(2, 7), [4, 4, 0], np.array([9, 1]), np.arange(10) % 2 == 0]
)
def test_rows_are_those_of_the_whole_array_in_float32(rows):
    pixels, whole = Pixels(LEVELS), LEVELS / np.float32(255)
    assert (pixels.shape, pixels.dtype, len(pixels)) == (whole.shape, whole.dtype, len(whole))
    np.testing.assert_array_equal(pixels[rows], whole[rows])
    assert pixels[rows].dtype == np.float32
    np.testing.assert_array_equal(np.asarray(pixels), whole)
    if not isinstance(rows, int):
        kept = pixels.take(rows)
        assert kept.levels.dtype == np.uint8
        np.testing.assert_array_equal(np.asarray(kept), whole[rows])
    with pytest.raises(ValueError, match="copy is False"):
        np.asarray(pixels, copy=False)


def folder_of(path, pictures):
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{i}.png")
    parts = images.load("folder", path=str(path), size=4, channels=1)
    return [p.image for p in parts.values() if len(p)]


def test_pictures_of_8_bits_stay_bytes_and_one_that_is_deeper_makes_all_float(tmp_path):
    shallow = [level[..., 0] for level in LEVELS]
    kept = folder_of(tmp_path, shallow)
    assert all(isinstance(part, Pixels) for part in kept)
    want = sorted((p / np.float32(255)).tobytes() for p in shallow)
    assert sorted(row.tobytes() for part in kept for row in np.asarray(part)) == want
    mixed = folder_of(tmp_path, [*shallow, np.full((4, 4), 65_535, np.uint16)])
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float32 for part in mixed)
    white = np.ones((4, 4), np.float32).tobytes()
    assert sorted(row.tobytes() for part in mixed for row in part) == sorted([*want, white])


def test_batches_and_evaluation_never_make_the_whole_array(monkeypatch):
    whole = LEVELS / np.float32(255)

    def refuse(*_, **__):
        raise AssertionError("the whole array was made")

    monkeypatch.setattr(Pixels, "__array__", refuse)
    ours, theirs = (
        pipeline.batches({"image": a}, 4, seed=1, threads=0) for a in (Pixels(LEVELS), whole)
    )
    for _ in range(4):
        np.testing.assert_array_equal(next(ours)["image"], next(theirs)["image"])
    negative = jax.jit(lambda _, x: -x)
    np.testing.assert_array_equal(batched_apply(negative, None, Pixels(LEVELS), batch=4), -whole)
    ours, theirs = (
        floors.mean_image_mse(a[:6] if a is whole else a.take(slice(6)), a[6:], rows=4)
        for a in (Pixels(LEVELS), whole)
    )
    assert ours[0] == theirs[0] == pytest.approx(np.mean((whole[6:] - whole[:6].mean(0)) ** 2))
    np.testing.assert_array_equal(ours[1], theirs[1])
