"""Videos of a data set: frames by their number, in any order, and what each codec leaves of them."""

import numpy as np
import pytest
from dataset_episodes import moving_images

from rlt_vla_node.video import CODECS, VideoError, VideoReader, VideoWriter, count_frames, video_facts


@pytest.fixture
def written(tmp_path):
    """Writes 40 frames of 64 x 48 pixels with a codec; returns path and frames."""

    def write(codec):
        images = np.stack([moving_images(0, step, 48, 64)[0] for step in range(40)])
        writer = VideoWriter(tmp_path / f"{codec}.mp4", 50, 48, 64, CODECS[codec])
        for image in images:
            writer.add(image)
        writer.close()
        return writer.path, images

    return write


@pytest.mark.parametrize(("codec", "decibel"), [("av1", 28.0), ("h264", 36.0), ("lossless", np.inf)])
def test_what_a_codec_leaves(written, codec, decibel):
    path, images = written(codec)
    with VideoReader(path, 50) as reader:
        found = reader.frames(range(40))
    error = ((found.astype(float) - images) ** 2).mean()
    assert (np.inf if error == 0 else 10 * np.log10(255**2 / error)) >= decibel
    assert count_frames(path) == 40
    assert (video_facts(path, 50)["video.height"], video_facts(path, 50)["video.width"]) == (48, 64)


@pytest.mark.parametrize("codec", CODECS)
def test_a_frame_is_the_same_however_it_is_come_by(written, codec):
    path, _ = written(codec)
    with VideoReader(path, 50) as reader:
        forward = reader.frames(range(40))
        order = np.random.default_rng(0).permutation(40)
        np.testing.assert_array_equal(reader.frames(order), forward[order])
        with pytest.raises(VideoError, match="has no frame 40"):
            reader.frame(40)
        np.testing.assert_array_equal(reader.frame(7), forward[7])


def test_what_is_no_video_is_named(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"not a video")
    with pytest.raises(VideoError, match=r"x\.mp4"):
        VideoReader(path, 50)
    with pytest.raises(VideoError, match=r"x\.mp4"):
        count_frames(path)
