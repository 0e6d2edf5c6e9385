"""SSIM against windows that scipy averages, closed forms of flat images, and overlaps by hand."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from jaxgen.metrics import images

RNG = np.random.default_rng(0)


def test_ssim_is_the_mean_over_windows_inside():
    a = RNG.random((3, 14, 17))
    b = np.clip(a + 0.2 * RNG.normal(size=a.shape), 0, 1)
    for i in range(3):
        mean = lambda x: uniform_filter(x, 7)[3:-3, 3:-3]  # noqa: E731
        x, y, n = a[i], b[i], 49
        m_x, m_y = mean(x), mean(y)
        s_x, s_y = (n / (n - 1) * (mean(v * v) - mean(v) ** 2) for v in (x, y))
        s_xy = n / (n - 1) * (mean(x * y) - m_x * m_y)
        c1, c2 = 0.01**2, 0.03**2
        want = (2 * m_x * m_y + c1) * (2 * s_xy + c2)
        want /= (m_x**2 + m_y**2 + c1) * (s_x + s_y + c2)
        assert images.ssim(a, b)[i] == pytest.approx(want.mean(), rel=1e-9)


def test_ssim_of_what_is_known():
    a = RNG.random((2, 9, 9))
    np.testing.assert_allclose(images.ssim(a, a), 1, rtol=1e-12)
    np.testing.assert_allclose(images.ssim(a, a[::-1]), images.ssim(a[::-1], a), rtol=1e-12)
    flat = np.full((1, 9, 9), 0.4), np.full((1, 9, 9), 0.7)
    want = (2 * 0.4 * 0.7 + 1e-4) / (0.4**2 + 0.7**2 + 1e-4)
    assert images.ssim(*flat)[0] == pytest.approx(want, rel=1e-6)
    # A negative: windows with the same mean and opposite deviations.
    x = np.tile([[0.25, 0.75], [0.75, 0.25]], (4, 4))[None]
    s = 0.0625 * 16 / 15
    got = images.ssim(x, 1 - x, window=4)[0]
    assert got == pytest.approx((-2 * s + 9e-4) / (2 * s + 9e-4), rel=1e-6)
    np.testing.assert_allclose(
        images.ssim(255 * a, 255 * a[::-1], data_range=255.0), images.ssim(a, a[::-1]), rtol=1e-9
    )


def test_ssim_refuses():
    with pytest.raises(ValueError, match=r"window is 7, allowed: 2 to the images' side, 6"):
        images.ssim(np.zeros((1, 6, 9)), np.zeros((1, 6, 9)))
    with pytest.raises(ValueError, match="shape is"):
        images.ssim(np.zeros((1, 9, 9)), np.zeros((2, 9, 9)))


def test_overlap_of_parts_and_distance_of_points():
    truth = np.array([[[1, 1, 2, 0]]])
    found = np.array([[[1, 2, 2, 2]]])
    np.testing.assert_allclose(images.part_iou(found, truth, 3), [1 / 2, 1 / 3, np.nan])
    np.testing.assert_allclose(images.part_iou(truth, truth, 2), 1)
    a = np.array([[[0.0, 0.0], [1.0, 1.0]]])
    assert images.point_error(a, a + np.array([3.0, 4.0]))[0] == pytest.approx(5.0)
