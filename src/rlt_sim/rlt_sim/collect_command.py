"""Command `collect`: demonstrations of the scripted tele-operator as episode files, and the pre-training images.

`collect --robot sim.yaml --task screw.yaml --output DIR --count 160 --seed 0` writes DIR/<id>.mcap, the same episode
files that the recorder writes for a person's demonstrations. `--poses N` also writes DIR/poses.safetensors: images at
random poses with the relative pose as label, which stand for the pre-training that a large VLA brings along.

Runs in process, without a graph: the chunk executor's own integrator drives the cell. What is already there and whole
is kept, so that an interrupted collection goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from rclpy.serialization import serialize_message
from safetensors.numpy import save

from rlt_common import topics
from rlt_common.atomic import write_atomic
from rlt_common.codecs import ObservationData, doubles, floats, observation_to_msg, to_time
from rlt_common.config import RobotConfig, TaskConfig, config_file, config_hash, load_robot, load_task
from rlt_common.episode_file import EpisodeFileError, EpisodeWriter, episode_metadata
from rlt_common.parameters import ParameterError
from rlt_msgs.msg import EpisodeState, ExecutedAction, SimulationState
from rlt_sim.collect import Demonstration, Sample, demonstrate, random_poses
from rlt_sim.lockstep import episode_stamp_ns
from rlt_sim.task_cell import make_cell

SEED_STRIDE = 1_000_000
"""Demonstration seeds of run seed s start at s * SEED_STRIDE, far from the seeds of training and evaluation resets."""
POSE_SHARD = 250


def blocks(sample: Sample) -> dict[str, np.ndarray]:
    """Proprioception blocks of a sample, named as in the robot file."""
    return {
        "joint_position": sample.position,
        "joint_velocity": sample.velocity,
        "joint_effort": sample.effort,
        "ee_pose": sample.tool_pose,
    }


def write_demonstration(path: Path, demo: Demonstration, episode_id: int, robot: RobotConfig, task: TaskConfig) -> None:
    """Write one demonstration as an episode file, as the recorder would."""
    period_ns = round(1e9 / robot.control_hz)
    writer = EpisodeWriter(path)
    state_type = "rlt_msgs/msg/SimulationState"
    for index, sample in enumerate(demo.samples):
        stamp = episode_stamp_ns(episode_id, index * demo.stride, period_ns)
        data = ObservationData(stamp, stamp, tuple(c.name for c in robot.cameras), sample.images, blocks(sample))
        message = observation_to_msg(data, [c.encoding for c in robot.cameras], [0.0] * len(robot.cameras), robot.frame)
        writer.write(topics.OBSERVATION, "rlt_msgs/msg/Observation", serialize_message(message), stamp)
        state = SimulationState(step=index * demo.stride, task_error=floats(sample.label))
        state.header.stamp = to_time(stamp)
        writer.write(topics.SIMULATION_STATE, state_type, serialize_message(state), stamp)
    for step, action in enumerate(demo.actions):
        stamp = episode_stamp_ns(episode_id, step, period_ns)
        critical = step >= demo.hand_off_step
        executed = ExecutedAction(
            episode_id=episode_id,
            step=step,
            phase=EpisodeState.PHASE_CRITICAL if critical else EpisodeState.PHASE_BASE,
            source=ExecutedAction.SOURCE_HUMAN,
            action=floats(action),
            commanded=floats(action),
            reference=floats(action),
            clamped=[False] * len(action),
            row=-1,
            joint_names=list(robot.joint_names),
            joint_target=doubles(demo.joint_targets[step]),
        )
        executed.header.stamp = to_time(stamp)
        writer.write(topics.EXECUTED_ACTION, "rlt_msgs/msg/ExecutedAction", serialize_message(executed), stamp)
    writer.finish(
        {
            "task": task.name,
            "robot": robot.name,
            "episode_id": episode_id,
            "seed": demo.seed,
            "purpose": "collect",
            "driver": "human",
            "label": "success" if demo.success else "failure",
            "handoff_step": demo.hand_off_step,
            "steps": len(demo.actions),
            "config_hash": config_hash(robot, task),
        }
    )


def collect_one(
    robot_path: str, task_path: str, folder: str, episode_id: int, seed: int, stride: int
) -> tuple[int, bool]:
    """Run one demonstration and keep it when it succeeds. Returns its length in control steps and the success."""
    robot, task = load_robot(robot_path), load_task(task_path)
    demo = demonstrate(make_cell(robot, task), seed, stride)
    if demo.success:
        write_demonstration(Path(folder) / f"{episode_id:06d}.mcap", demo, episode_id, robot, task)
    return len(demo.actions), demo.success


def pose_shard(robot_path: str, task_path: str, count: int, seed: int) -> dict[str, np.ndarray]:
    """`count` random-pose samples: images (n, cameras, H, W, 3) uint8, vla_state (n, S), target (n, K) float32."""
    robot, task = load_robot(robot_path), load_task(task_path)
    samples = list(random_poses(make_cell(robot, task), count, seed))
    return {
        "images": np.stack([s.images for s in samples]),
        "vla_state": np.stack([np.concatenate([blocks(s)[name] for name in task.vla_state]) for s in samples]),
        "target": np.stack([s.label for s in samples]),
    }


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_sim collect`."""
    parser = argparse.ArgumentParser(prog="collect", description="demonstrations of the scripted tele-operator")
    parser.add_argument("--robot", required=True, help="robot name, or path of a robot file")
    parser.add_argument("--task", required=True, help="task name, or path of a task file")
    parser.add_argument("--output", required=True, help="folder for <id>.mcap")
    parser.add_argument("--count", type=int, default=160, help="successful demonstrations to have in the end")
    parser.add_argument("--poses", type=int, default=0, help="random-pose images to write to poses.safetensors")
    parser.add_argument("--seed", type=int, default=0, help="run seed")
    parser.add_argument("--stride", type=int, default=4, help="control steps between observations")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(arguments)
    for name in ("count", "poses", "seed"):
        if getattr(options, name) < 0:
            parser.error(f"--{name} must not be negative")
    if options.stride < 1 or options.workers < 1:
        parser.error("--stride and --workers must be at least 1")
    try:
        options.robot = str(config_file("robots", options.robot))
        options.task = str(config_file("tasks", options.task))
        robot, task = load_robot(options.robot), load_task(options.task)
        make_cell(robot, task)
        if robot.relative_to != "commanded":
            raise ParameterError(
                f"{options.robot}: relative_to: {robot.relative_to}: scripted demonstrations are relative to "
                "the commanded pose: collect through the graph (mode:=collect)"
            )
        if robot.actions != "tool_pose":
            raise ParameterError(
                f"{options.robot}: actions: {robot.actions}: scripted demonstrations are of tool poses: collect "
                "through the graph (mode:=collect)"
            )
    except ParameterError as error:
        sys.exit(f"collect: {error}")
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(max_workers=options.workers) as pool:
        _collect_demonstrations(pool, options, folder)
        if options.poses:
            _collect_poses(pool, options, folder)


def _collect_demonstrations(pool: ProcessPoolExecutor, options: argparse.Namespace, folder: Path) -> None:
    """Episode id i + 1 has reset seed s * SEED_STRIDE + i of run seed s: a repetition gives the same files."""
    missing = [i for i in range(options.count) if not _is_whole(folder / f"{i + 1:06d}.mcap")]
    progress = _progress("demonstrations", len(missing))
    first = options.seed * SEED_STRIDE
    spare = first + options.count
    pending = {i: first + i for i in missing}
    done, failed = 0, 0
    while pending:
        futures = {
            pool.submit(collect_one, options.robot, options.task, str(folder), i + 1, seed, options.stride): i
            for i, seed in pending.items()
        }
        again = []
        for future in as_completed(futures):
            _, success = future.result()
            if success:
                done += 1
                progress(done)
            else:
                again.append(futures[future])
        failed += len(again)
        pending = {}
        for i in sorted(again):
            pending[i] = spare
            spare += 1
    print(
        f"collect: {options.count} demonstrations in {folder}, {failed} attempts failed and were repeated", flush=True
    )


def _collect_poses(pool: ProcessPoolExecutor, options: argparse.Namespace, folder: Path) -> None:
    path = folder / "poses.safetensors"
    if path.exists():
        return
    shards = -(-options.poses // POSE_SHARD)
    progress = _progress("pre-training images", options.poses)
    sizes = [min(POSE_SHARD, options.poses - i * POSE_SHARD) for i in range(shards)]
    futures = [
        pool.submit(pose_shard, options.robot, options.task, size, options.seed * SEED_STRIDE + 500_000 + i)
        for i, size in enumerate(sizes)
    ]
    for number, _ in enumerate(as_completed(futures), start=1):
        progress(min(number * POSE_SHARD, options.poses))
    parts = [future.result() for future in futures]
    arrays = {key: np.ascontiguousarray(np.concatenate([part[key] for part in parts])) for key in parts[0]}
    write_atomic(path, save(arrays))


def _is_whole(path: Path) -> bool:
    try:
        episode_metadata(path)
    except EpisodeFileError:
        return False
    return True


def _progress(what: str, total: int) -> Callable[[int], None]:
    """A function that prints how far the collection is, about every five seconds."""
    start = last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last > 5.0:
            last = now
            left = (now - start) / done * (total - done)
            print(f"collect: {what} {done}/{total}, {now - start:.0f} s, about {left:.0f} s left", flush=True)

    return show


if __name__ == "__main__":
    main()
