"""The run's episodes for the operator page, their learning curve, and clips of them."""

import asyncio
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage

from rlt_common import topics
from rlt_common.codecs import encode_image, to_time
from rlt_common.episode_file import EpisodeWriter
from rlt_common.relabels import append_relabel
from rlt_msgs.msg import Observation
from rlt_teleop import clip_encoder
from rlt_teleop.clip_encoder import ClipError, encode, side_by_side
from rlt_teleop.clips import Clips, NoClip
from rlt_teleop.page_history import History, curve

HZ = 50.0
GREEN, GREY = (0, 180, 0), (90, 90, 90)


def observed(at_ms, *colours, size=(64, 48)):
    images = [
        CompressedImage(format="png", data=encode_image(np.full((size[1], size[0], 3), colour, np.uint8), "png"))
        for colour in colours
    ]
    message = Observation(camera_names=[f"camera_{i}" for i in range(len(images))], images=images)
    message.header.stamp = to_time(at_ms * 1_000_000)
    return message


def write(run, episode_id, observations=(), **facts):
    writer = EpisodeWriter(run / "episodes" / f"{episode_id:06d}.mcap")
    for i, message in enumerate(observations):
        writer.write(topics.OBSERVATION, "rlt_msgs/msg/Observation", serialize_message(message), i)
    known = {"label": "success", "purpose": "train", "steps": "300", "handoff_step": "100", "start_in": "full"}
    writer.finish({**known, **{key: str(value) for key, value in facts.items()}})


def test_episodes_are_listed_with_the_label_that_counts(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, label="failure", intervened="true", driver="vla", critical_driver="rl")
    write(tmp_path, 3, driver="vla")
    append_relabel(tmp_path, 1, "discard")
    history = History(tmp_path, HZ)
    assert history.scan()
    first, second, older = history.episodes
    assert (second.driver, older.driver) == ("rl", "vla")
    assert (first.label, first.recorded_label, first.steps, first.critical_steps) == ("discard", "success", 300, 200)
    assert (second.label, second.recorded_label, second.intervened) == ("failure", "", True)
    assert [episode["episode_id"] for episode in history.to_json()["episodes"]] == [3, 2, 1]
    assert history.label_of(2) == "failure"
    assert history.label_of(4) == ""
    assert not history.scan(), "nothing is new"


def test_a_damaged_file_and_a_part_are_left_out_and_a_run_that_is_not_there_is_empty(tmp_path):
    history = History(tmp_path / "run", HZ)
    assert not history.scan()
    write(tmp_path / "run", 1)
    (tmp_path / "run" / "episodes" / "000002.mcap").write_bytes(b"torn")
    (tmp_path / "run" / "episodes" / "000003.mcap.part").write_bytes(b"")
    assert history.scan()
    assert [episode.episode_id for episode in history.episodes] == [1]


def test_labels_that_cannot_be_read_are_told(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "labels.jsonl").mkdir()
    history = History(tmp_path, HZ)
    assert history.scan()
    assert "labels.jsonl" in history.problem


def test_the_curve_is_of_practice_without_discards(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, label="timeout", steps=600)
    write(tmp_path, 3, label="discard")
    write(tmp_path, 4, purpose="evaluate")
    history = History(tmp_path, HZ)
    history.scan()
    points = curve(history.episodes, HZ)
    assert [(point["episode_id"], point["success"], point["steps"]) for point in points] == [
        (1, True, 200),
        (2, False, 500),
    ]
    assert (points[1]["rate"], points[1]["median"]) == (0.5, 200)
    assert points[1]["throughput"] == pytest.approx(600 / (700 / HZ))


def test_cameras_stand_side_by_side_in_even_sizes():
    wide, small = np.zeros((97, 201, 3), np.uint8), np.full((64, 64, 3), 9, np.uint8)
    row = side_by_side([wide, small])
    assert row.shape == (194, 402 + clip_encoder.GAP + 192, 3)
    assert row[191, -1].tolist() == [9, 9, 9]
    assert side_by_side([np.zeros((2000, 1000, 3), np.uint8)]).shape == (480, 240, 3)


def test_a_clip_is_h264_with_the_cameras_beside_each_other_at_the_pace_of_the_episode(tmp_path):
    write(tmp_path, 1, [observed(1000 + at, GREEN, GREY) for at in (0, 40, 80, 400)])
    output = tmp_path / "clip.mp4"
    assert encode(tmp_path / "episodes" / "000001.mcap", output) == 4
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert "Baseline" in stream.codec_context.profile
        frames = list(container.decode(stream))
    assert [round(1000 * frame.pts * Fraction(frame.time_base)) for frame in frames] == [0, 40, 80, 400]
    picture = frames[-1].to_ndarray(format="rgb24").astype(int)
    assert picture.shape == (192, 2 * 256 + clip_encoder.GAP, 3)
    assert np.abs(picture[96, 128] - GREEN).max() < 12
    assert np.abs(picture[96, -128] - GREY).max() < 12


def test_images_that_cannot_be_read_are_left_out_and_without_any_there_is_no_clip(tmp_path):
    broken = observed(40, GREEN)
    broken.images[0].data = b"no image"
    write(tmp_path, 1, [observed(0, GREEN), broken, observed(80, GREEN)])
    assert encode(tmp_path / "episodes" / "000001.mcap", tmp_path / "one.mp4") == 2
    write(tmp_path, 2, [broken])
    with pytest.raises(ClipError, match="no images"):
        encode(tmp_path / "episodes" / "000002.mcap", tmp_path / "two.mp4")
    assert sorted(path.name for path in tmp_path.glob("*.mp4*")) == ["one.mp4"]


def test_clips_are_made_once_in_a_process_of_their_own_and_the_oldest_give_way(tmp_path):
    for episode_id in (1, 2):
        write(tmp_path, episode_id, [observed(at, GREEN) for at in (0, 40)])

    async def scene():
        clips = Clips(tmp_path, max_mib=1.0)
        both = await asyncio.gather(clips.get(1), clips.get(1))
        assert both[0] == both[1] == clips.find(1)
        os.utime(both[0], (1, 1))
        tight = Clips(tmp_path, max_mib=both[0].stat().st_size * 1.5 / 1024**2)
        newest = await tight.get(2)
        assert newest.is_file()
        assert tight.find(1) is None

    asyncio.run(scene())


def test_a_clip_that_cannot_be_made_says_why(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "episodes" / "000002.mcap").write_bytes(b"torn")

    async def scene():
        clips = Clips(tmp_path, max_mib=1.0)
        for episode_id, why in ((1, "no images"), (2, "not a whole episode file"), (9, "no file here")):
            with pytest.raises(NoClip, match=why):
                await clips.get(episode_id)

    asyncio.run(scene())


def test_no_link_leads_a_clip_out_of_the_run_directory(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    write(run, 1, [observed(0, GREEN)])
    elsewhere.mkdir()
    (elsewhere / "000001.mp4").write_bytes(b"secret")
    (run / "clips").symlink_to(elsewhere)

    async def scene():
        with pytest.raises(NoClip, match="leads out of"):
            Clips(run, 1.0).find(1)
        with pytest.raises(NoClip, match="leads out of"):
            await Clips(run, 1.0).get(1)

    asyncio.run(scene())
