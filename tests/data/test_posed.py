"""Poses whose pictures can be written down: identity, quarter turns, whole shifts; MNIST's file format."""

import gzip

import numpy as np
import pytest

from jaxgen.data import idx, posed
from jaxgen.errors import ConfigError

RNG = np.random.default_rng(0)
S = 12


def turn(degrees, count=1, shift=(0.0, 0.0), scale=1.0):
    a = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return posed.Poses(
        np.broadcast_to(matrix, (count, 2, 2)).astype(np.float32),
        np.broadcast_to(np.array(shift, np.float32), (count, 2)),
    )


def middle(count=1):
    return np.full((count, 2), (S - 1) / 2, np.float32)


def test_a_quarter_turn_turns_image_parts_and_points():
    image = RNG.random((3, S, S)).astype(np.float32)
    pose = turn(90, 3)  # x to y: clockwise on the screen
    want = np.rot90(image, -1, (1, 2))
    np.testing.assert_allclose(posed.warp(image, middle(3), pose, S), want, atol=1e-5)
    plain = posed.quadrants(turn(0, 3), S)
    np.testing.assert_array_equal(posed.quadrants(pose, S), np.rot90(plain, -1, (1, 2)))
    assert plain[0, 0].tolist() == [1] * 6 + [2] * 6
    assert plain[0, -1].tolist() == [3] * 6 + [4] * 6
    points = posed.key_points(pose, S, reach=3.0)[0] - middle()
    np.testing.assert_allclose(points, [[3, -3], [3, 3], [-3, -3], [-3, 3]], atol=1e-5)


def test_shifts_and_scales():
    image = RNG.random((1, S, S)).astype(np.float32)
    moved = posed.warp(image, middle(), turn(0, shift=(2.0, 1.0)), S)
    np.testing.assert_allclose(moved[:, 1:, 2:], image[:, :-1, :-2], atol=1e-6)
    np.testing.assert_array_equal(moved[:, 0], 0)  # 0 from outside
    half = posed.warp(image, middle(), turn(0, shift=(0.5, 0.0)), S)
    np.testing.assert_allclose(half[..., 1:], (image[..., 1:] + image[..., :-1]) / 2, atol=1e-6)
    # A ramp is linear: between pixels it is exact, at any scale and turn.
    ramp = np.broadcast_to(np.arange(S, dtype=np.float32), (1, S, S))
    pose = turn(20, scale=0.9)
    p = posed.frame(pose, S)
    inside = (np.abs(p) < (S - 1) / 2 - 0.01).all(-1)
    got = posed.warp(ramp, middle(), pose, S)
    np.testing.assert_allclose(got[inside], (p[..., 0] + (S - 1) / 2)[inside], atol=1e-4)


def test_as_it_is_a_source_is_its_target_and_its_centre_is_the_origin():
    images = RNG.random((4, 7, 9)).astype(np.float32)
    data = posed.make(images, None, S, threshold=0.3)
    np.testing.assert_array_equal(data.target, data.source)
    np.testing.assert_array_equal(data.source[:, 2:9, 1:10, 0], images)
    assert float(data.source.sum()) == pytest.approx(images.sum(), rel=1e-6)
    centre = posed.centre_of_mass(data.source[..., 0])
    weight = images[0] / images[0].sum()
    x = (weight.sum(0) * np.arange(9)).sum() + 1
    assert centre[0, 0] == pytest.approx(x, abs=1e-5)
    np.testing.assert_allclose(data.points.mean(1), centre, atol=1e-5)
    left = np.arange(S) < centre[0, 0]
    assert (data.quadrants[0, 0] == np.where(left, 1, 2)).all()
    bright = data.source[..., 0] > 0.3
    np.testing.assert_array_equal(data.parts, np.where(bright, data.quadrants, 0))


def test_heat_maps_have_their_peak_at_the_point():
    maps = posed.heat_maps(np.array([[[3.0, 5.0], [7.5, 2.0]]], np.float32), S, sigma=1.5)
    assert maps[0, 5, 3, 0] == 1
    assert maps[0, 5, 4, 0] == pytest.approx(np.exp(-0.5 / 1.5**2), rel=1e-5)
    assert maps[0, 2, 7, 1] == maps[0, 2, 8, 1] == pytest.approx(np.exp(-0.125 / 1.5**2), rel=1e-5)


def test_drawn_poses_stay_within_their_range_and_their_points_follow():
    pose = posed.draw(np.random.default_rng(1), 4000)
    scale = np.sqrt(np.linalg.det(pose.matrix))
    angle = np.rad2deg(np.arctan2(pose.matrix[:, 1, 0], pose.matrix[:, 0, 0]))
    assert (np.abs(angle) <= 60.01).all()
    assert (scale >= 0.7499).all()
    assert (scale <= 1.1001).all()
    assert (np.abs(pose.shift) <= 3).all()
    # Uniform: a mean of 4000 is known to 60 / sqrt(3 * 4000) degrees.
    assert abs(angle.mean()) < 4 * 60 / np.sqrt(3 * 4000)
    p = posed.frame(pose, 33)
    u = np.einsum("bij,bj->bi", pose.matrix, p[:, 4, 9]) + pose.shift + 16
    np.testing.assert_allclose(u, np.broadcast_to([9, 4], u.shape), atol=1e-3)


def test_enlarging_keeps_what_is_linear_and_the_mean():
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 8, 8))
    big = posed.enlarge(ramp, 20)
    want = (np.arange(20) + 0.5) * 0.4 - 0.5
    np.testing.assert_allclose(big[0, 7], want.clip(0, 7), atol=1e-5)
    np.testing.assert_array_equal(posed.enlarge(ramp, 8), ramp)


def test_bad_arguments():
    image = np.ones((2, 5, 5), np.float32)
    with pytest.raises(ValueError, match="size is 4, allowed: at least 5"):
        posed.place(image, 4)
    with pytest.raises(ValueError, match=r"image is \[1\], allowed: one with intensity"):
        posed.centre_of_mass(image * np.array([1.0, 0.0], np.float32)[:, None, None])
    with pytest.raises(ValueError, match=r"scale is \[1.0, 0.5\]"):
        posed.draw(np.random.default_rng(0), 1, posed.PoseRange(scale=(1.0, 0.5)))
    with pytest.raises(ValueError, match="sigma is 0"):
        posed.heat_maps(np.zeros((1, 1, 2), np.float32), 4, sigma=0.0)


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def folder(path, images):
    for stem in ("train", "t10k"):
        write_idx(path / f"{stem}-images-idx3-ubyte", images)
        write_idx(path / f"{stem}-labels-idx1-ubyte", np.arange(len(images)))
    return path


def test_idx_files_plain_and_compressed(tmp_path):
    images = RNG.integers(0, 256, (3, 4, 5))
    folder(tmp_path, images)
    plain = tmp_path / "train-images-idx3-ubyte"
    plain.with_name(plain.name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    parts = idx.load(str(tmp_path))
    for part in parts.values():
        np.testing.assert_allclose(part.image[..., 0], images / 255, rtol=1e-6)
        assert part.label.tolist() == [0, 1, 2]


@pytest.mark.parametrize("damage", ["gone", "short", "magic", "gzip", "labels"])
def test_damaged_idx_files_are_named(tmp_path, damage):
    folder(tmp_path, np.ones((3, 4, 5), int))
    path = tmp_path / "t10k-images-idx3-ubyte"
    data = path.read_bytes()
    path.unlink()
    if damage == "labels":
        write_idx(path, np.ones((2, 4, 5), int))
    elif damage != "gone":
        bad = {"short": data[:-1], "magic": b"\1" + data, "gzip": gzip.compress(data)[:-4]}
        path.write_bytes(bad[damage])
    with pytest.raises(ConfigError, match=r"data\.path is .*, allowed: "):
        idx.load(str(tmp_path))
