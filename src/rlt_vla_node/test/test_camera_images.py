"""Crop and rotation, timing and exposure of cameras."""

from dataclasses import replace

import numpy as np
import pytest

from rlt_common.codecs import CodecError
from rlt_vla_node.camera_timing import CameraTiming, timing_problems
from rlt_vla_node.exposure import FIRST_LOOKS, ExposureWatch, measure
from rlt_vla_node.images import prepare_image

MS = 1_000_000


@pytest.fixture
def camera(cell):
    return replace(cell.robot.cameras[0], width=8, height=8, rate_hz=25.0)


def numbered(rows, columns):
    """Every pixel tells its row (red) and column (green)."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.stack([y, x, np.zeros_like(x)], -1).astype(np.uint8)


def test_without_crop_and_rotation_an_image_of_the_right_size_stays_the_very_same(camera):
    rgb = numbered(8, 8)
    assert prepare_image(rgb, camera) is rgb


def test_the_crop_is_left_top_width_height_in_the_camera_s_pixels(camera):
    cropped = prepare_image(numbered(48, 64), replace(camera, crop=(20, 10, 8, 8)))
    assert cropped[0, 0].tolist() == [10, 20, 0]
    assert cropped[7, 7].tolist() == [17, 27, 0]


@pytest.mark.parametrize(("rotation", "corner"), [(90, [7, 0]), (180, [7, 7]), (270, [0, 7])])
def test_the_rotation_is_clockwise_and_follows_the_crop(camera, rotation, corner):
    turned = prepare_image(numbered(48, 64), replace(camera, crop=(20, 10, 8, 8), rotation=rotation))
    assert turned[0, 0].tolist() == [corner[0] + 10, corner[1] + 20, 0]


def test_a_camera_mounted_on_its_side_keeps_its_aspect(camera):
    upright = replace(camera, width=48, height=64, rotation=90)
    assert prepare_image(numbered(48, 64), upright)[0, 0].tolist() == [47, 0, 0]


def test_a_crop_outside_the_image_is_refused(camera):
    with pytest.raises(CodecError, match=r"crop \[60, 0, 8, 8\] leaves the image of 64x48 pixels"):
        prepare_image(numbered(48, 64), replace(camera, crop=(60, 0, 8, 8)))


def timing_of(stamps_ms, age_ms=30.0, rate_hz=25.0):
    timing = CameraTiming(rate_hz)
    for stamp in stamps_ms:
        timing.on_image(round(stamp * MS), round((stamp + age_ms) * MS))
    return timing


def test_rate_age_skew_and_drops_are_measured(camera):
    timing = timing_of([40 * i for i in range(50) if i not in (7, 20, 21)])
    for skew in (-4, 2, 6):
        timing.on_match(skew * MS)
    report = timing.report()
    assert (report.images, report.dropped) == (47, 3)
    assert report.age_s == pytest.approx((0.03, 0.03))
    assert report.skew_s == pytest.approx((0.002, 0.006), abs=1e-4)
    (problem,) = timing_problems(camera, report)
    assert "3 of 50 images were lost" in problem


def test_a_regular_camera_has_no_problem_whether_it_is_a_little_faster_or_jitters(camera):
    for period in (40, 33.3, 44):
        jitter = np.random.default_rng(0).normal(0.0, 2.0, 100)
        assert timing_problems(camera, timing_of(period * i + jitter[i] for i in range(100)).report()) == []


@pytest.mark.parametrize(
    ("period_ms", "age_ms", "said"),
    [(40, -20, "0.020 s ahead"), (40, 3_600_000, "3600.0 s old"), (80, 30, "12.5 of 25 Hz")],
)
def test_clocks_and_rates_that_are_off_are_named(camera, period_ms, age_ms, said):
    (problem,) = timing_problems(camera, timing_of([period_ms * i for i in range(50)], age_ms).report())
    assert said in problem


def test_a_clock_that_jumps_is_no_lost_image(camera):
    stamps = [40 * i for i in range(20)] + [10_000_000 + 40 * i for i in range(20)] + [40 * i for i in range(20)]
    report = timing_of(stamps).report()
    assert (report.images, report.dropped) == (20, 0)
    assert report.rate_hz == pytest.approx(25.0)


def test_nothing_is_judged_before_there_is_something(camera):
    assert timing_problems(camera, CameraTiming(25.0).report()) == []
    assert "no rate yet" in str(CameraTiming(25.0).report())


def test_an_exposure_is_measured_by_shares():
    rgb = np.full((480, 640, 3), 100, np.uint8)
    rgb[:240] = 255
    rgb[400:] = 0
    seen = measure(rgb)
    assert seen.saturated == pytest.approx(0.5, abs=0.04)
    assert seen.black == pytest.approx(80 / 480, abs=0.04)
    assert seen.mean == pytest.approx(rgb.mean(), abs=5)


def looks(watch, level, count):
    for _ in range(count):
        watch.look(np.full((16, 16, 3), level, np.uint8))


@pytest.mark.parametrize(("level", "said"), [(255, "saturated"), (0, "black")])
def test_a_picture_at_its_end_is_named(level, said):
    watch = ExposureWatch()
    looks(watch, level, 3)
    (problem,) = watch.problems()
    assert said in problem


def test_a_lamp_that_is_switched_is_named_and_a_hand_before_the_lens_is_not():
    watch = ExposureWatch()
    looks(watch, 120, FIRST_LOOKS + 10)
    looks(watch, 10, 5)
    assert watch.problems() == []
    looks(watch, 120, 40)
    looks(watch, 60, 60)
    (problem,) = watch.problems()
    assert "went from 120 to 6" in problem
    looks(watch, 120, 100)
    assert watch.problems() == []
