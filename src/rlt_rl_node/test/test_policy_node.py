"""The policy node over real DDS."""

from __future__ import annotations

import array

import numpy as np
import pytest
import rclpy
from rl_episodes import learner_config
from rl_graph import Graph, episode_data, episode_state, stamp, task_shape, vla_output, write_files

from rlt_common import topics
from rlt_common.atomic import sha256_hex
from rlt_msgs.msg import ActionChunk, ActorParameters, ChunkRequest, EpisodeState
from rlt_rl_node.actor_codec import pack
from rlt_rl_node.learner import Learner

DATA = episode_data(5)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    rclpy.init()
    try:
        with Graph(folder) as graph:
            graph.run("rl_policy", {**write_files(folder), "run_seed": 4})
            wanted = (topics.CHUNK_REQUEST, topics.VLA_OUTPUT, topics.EPISODE_STATE, topics.ACTOR)
            graph.spin_until(lambda: all(graph.connected(topic) for topic in wanted), "the policy node")
            yield graph
    finally:
        rclpy.shutdown()


def actor_message(version: int, data: bytes | None = None, sha256: str | None = None) -> ActorParameters:
    if data is None:
        learner = Learner(task_shape(), learner_config())
        learner.version = version
        data = pack(learner.policy())
    return ActorParameters(version=version, sha256=sha256 or sha256_hex(data), data=array.array("B", data))


def request(request_id: int, epoch: int, i: int = 0, rows: int = 4) -> ChunkRequest:
    step = int(DATA.encoded_steps[i])
    message = ChunkRequest(episode_id=5, epoch=epoch, request_id=request_id, boundary_step=step, first_step=step)
    message.rows = rows
    message.not_before = stamp(5, step)
    return message


def state(epoch: int, driver: int = EpisodeState.DRIVER_VLA, **changes: object) -> EpisodeState:
    return episode_state(DATA, False, epoch=epoch, driver=driver, **changes)


def answered(graph: Graph, request_id: int) -> ActionChunk:
    graph.spin_until(lambda: any(c.chunk_id == request_id for c in graph.chunks), f"chunk {request_id}")
    return next(c for c in graph.chunks if c.chunk_id == request_id)


def rows(values, count: int) -> np.ndarray:
    return np.array(values, np.float32).reshape(count, -1)


def test_a_request_is_answered_with_the_vlas_rows(graph):
    graph.publish(topics.EPISODE_STATE, state(10))
    graph.publish(topics.CHUNK_REQUEST, request(100, 10, rows=6))
    graph.publish(topics.VLA_OUTPUT, vla_output(DATA, 0, request_id=100))
    chunk = answered(graph, 100)
    assert (chunk.source, chunk.rows, chunk.epoch, chunk.policy_version) == (ActionChunk.SOURCE_VLA, 6, 10, 0)
    np.testing.assert_array_equal(rows(chunk.actions, 6), DATA.references[0, :6])
    assert chunk.header.stamp == stamp(5, 0)


def test_rl_waits_for_its_actor_then_refines_and_repeats_the_same_chunk(graph):
    graph.publish(topics.EPISODE_STATE, state(20, EpisodeState.DRIVER_RL, actor_version=3, explore=True))
    graph.publish(topics.CHUNK_REQUEST, request(200, 20))
    graph.publish(topics.VLA_OUTPUT, vla_output(DATA, 0, request_id=200))
    graph.spin_until(lambda: "actor version 3" in graph.health.get("rl_policy", (0, ""))[1], "word of the actor")
    assert not any(c.chunk_id == 200 for c in graph.chunks)
    graph.publish(topics.ACTOR, actor_message(3))
    chunk = answered(graph, 200)
    assert (chunk.source, chunk.rows, chunk.policy_version) == (ActionChunk.SOURCE_RL, 4, 3)
    np.testing.assert_array_equal(rows(chunk.reference, 4), DATA.references[0, :4])
    assert not np.array_equal(chunk.actions, chunk.reference)
    graph.publish(topics.CHUNK_REQUEST, request(200, 20))
    graph.spin_until(lambda: sum(c.chunk_id == 200 for c in graph.chunks) == 2, "the repeated chunk")
    first, again = (c for c in graph.chunks if c.chunk_id == 200)
    assert again == first


def test_stale_requests_stay_unanswered(graph):
    graph.publish(topics.EPISODE_STATE, state(30))
    graph.publish(topics.CHUNK_REQUEST, request(300, 29))
    graph.publish(topics.VLA_OUTPUT, vla_output(DATA, 0, request_id=300))
    graph.publish(topics.CHUNK_REQUEST, request(301, 30))
    graph.publish(topics.VLA_OUTPUT, vla_output(DATA, 0, request_id=301))
    answered(graph, 301)
    assert not any(c.chunk_id == 300 for c in graph.chunks)


@pytest.mark.parametrize("field", ["reference", "rl_token"])
def test_a_value_that_is_not_finite_is_refused_and_reported(graph, field):
    number = 400 if field == "reference" else 410
    bad = vla_output(DATA, 0, request_id=number)
    getattr(bad, field)[1] = float("nan")
    graph.publish(topics.EPISODE_STATE, state(number))
    graph.publish(topics.CHUNK_REQUEST, request(number, number))
    graph.publish(topics.VLA_OUTPUT, bad)
    graph.spin_until(lambda: f"{field} holds a value that is not finite" in graph.health["rl_policy"][1], "the error")
    assert graph.health["rl_policy"][0] == 2
    assert not any(c.chunk_id == number for c in graph.chunks)
    graph.publish(topics.VLA_OUTPUT, vla_output(DATA, 0, request_id=number))
    answered(graph, number)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (actor_message(9, b"not an actor"), "safetensors"),
        (actor_message(9, sha256="0" * 64), "sha256"),
        (actor_message(9, pack(Learner(task_shape(), learner_config()).policy())), "expected version 9"),
    ],
    ids=["garbage", "sha256", "version"],
)
def test_an_actor_that_is_not_whole_is_refused_and_reported(graph, message, words):
    graph.publish(topics.ACTOR, message)
    graph.spin_until(lambda: words in graph.health["rl_policy"][1], "the error")
    assert graph.health["rl_policy"][0] == 2
