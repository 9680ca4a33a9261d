"""Statistics of a data set's columns."""

import numpy as np

from rlt_vla_node.lerobot_statistics import QUANTILES, column_statistics, combined, image_statistics, sampled


def test_the_statistics_of_all_episodes_are_those_of_all_frames():
    rng = np.random.default_rng(0)
    parts = [rng.normal(k, 1.0 + k, (10 * k + 5, 3)) for k in range(4)]
    total, every = combined([column_statistics(part) for part in parts]), np.concatenate(parts)
    assert total["count"].tolist() == [len(every)]
    for name in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(total[name], getattr(every, name)(axis=0), rtol=1e-12)
    assert (np.diff([total[name] for name in QUANTILES], axis=0) > 0).all()


def test_a_joint_that_moves_little_far_from_zero_keeps_its_deviation():
    values = (1.5 + 1e-5 * np.random.default_rng(0).normal(size=(500, 1))).astype(np.float32)
    found = column_statistics(values)["std"]
    np.testing.assert_allclose(found, values.astype(np.float64).std(axis=0))
    assert 0.9e-5 < found[0] < 1.1e-5


def test_images_have_statistics_of_each_channel_from_0_to_1():
    images = np.zeros((4, 320, 200, 3), np.uint8)
    images[:2, ..., 1] = 255
    found = image_statistics(images)
    assert found["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(found["mean"].ravel(), [0.0, 0.5, 0.0])
    assert found["count"].tolist() == [4]
    assert sampled(500).tolist()[:2] + sampled(500).tolist()[-1:] == [0, 10, 499]
    assert sampled(3).tolist() == [0, 1, 2]
