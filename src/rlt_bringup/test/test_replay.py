"""A recorded episode goes back through the real VLA and policy nodes over DDS and gives the same answers."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from rclpy.serialization import serialize_message
from small_models import small_vla

from rlt_bringup import replay, replay_plan, replay_source
from rlt_bringup.graph import config_file
from rlt_bringup.replay_plan import BOUNDARY, CHUNK, STRIDED, Await, Judgement, Publish, ReplayError
from rlt_bringup.replay_source import Wanted
from rlt_common import topics
from rlt_common.codecs import ObservationData, floats, observation_to_msg, to_time
from rlt_common.config import config_hash, kinematics_hash, load_robot, load_task
from rlt_common.episode_file import EpisodeFileError, EpisodeWriter, read_messages
from rlt_common.parameters import ParameterError
from rlt_msgs.msg import ActionChunk, EpisodeState, ExecutedAction, VlaOutput
from rlt_rl_node import checkpoint as learner_checkpoint
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.learner import Learner, LearnerConfig, TaskShape
from rlt_rl_node.messages import chunk_message, output
from rlt_rl_node.policy import ChunkPolicy, Episode, Request
from rlt_vla_node.checkpoint import CheckpointError, load_checkpoint
from rlt_vla_node.inference import noise_seed, run_batch, run_observation

ROBOT = load_robot(config_file("robots", "sim"))
TASK = load_task(config_file("tasks", "screw"))
RUN_SEED, EPISODE = 3, 12
PERIOD_NS = 20_000_000
START_NS = 7_000_000_000
STEPS, HANDOFF = 30, 10
BASE_EPOCH, CRITICAL_EPOCH = 5, 6
BOUNDARIES = (0, 10, 20)
GROUP = 16


def stamp(step):
    return START_NS + step * PERIOD_NS


def make_actor(run, model, releases=2, seed=0):
    shape = TaskShape(
        token_dim=8,
        state_dim=sum(ROBOT.block_sizes[name] for name in TASK.rl_state),
        chunk_length=TASK.chunk_length,
        stride=TASK.stride,
        spread=np.linspace(1e-3, 4e-3, ROBOT.action_dim, dtype=np.float32),
        step_limit=ROBOT.step_limit.astype(np.float32),
        vla_hash=model.hash,
    )
    learner = Learner(shape, LearnerConfig(seed=seed, agent=AgentConfig(hidden=(16,))))
    weights = None
    for _ in range(releases):
        weights = learner.release()
    learner_checkpoint.save(run / "checkpoints", learner, EpisodeStore(run / "encoded"), "final")
    return weights


def make_observation(step):
    rng = np.random.default_rng(step)
    return ObservationData(
        observation_id=stamp(step),
        stamp_ns=stamp(step),
        camera_names=tuple(camera.name for camera in ROBOT.cameras),
        images=rng.integers(0, 256, (len(ROBOT.cameras), 64, 64, 3), dtype=np.uint8),
        blocks={name: rng.normal(0, 0.1, size).astype(np.float32) for name, size in ROBOT.block_sizes.items()},
    )


def vla_message(observation, model, rl_token, reference, seed, epoch, request_id):
    message = VlaOutput(
        observation_id=observation.observation_id,
        episode_id=EPISODE,
        epoch=epoch,
        request_id=request_id,
        is_boundary=request_id > 0,
        rl_token=floats(rl_token),
        rl_state=floats(observation.state(TASK.rl_state)),
        horizon=reference.shape[0],
        action_dim=reference.shape[1],
        reference=floats(reference),
        noise_seed=seed,
        vla_hash=model.hash,
    )
    message.header.stamp = to_time(observation.stamp_ns)
    return message


def record(run):
    """Write a training episode as the recorder would; the answers come from the pure functions, not from the nodes."""
    torch.set_num_threads(1)
    model = small_vla(run / "vla", ROBOT, TASK)
    weights = make_actor(run, model)
    observations = {step: make_observation(step) for step in range(0, STEPS + 1, 2)}
    seeds = {
        step: noise_seed(RUN_SEED, EPISODE, observation.observation_id) for step, observation in observations.items()
    }
    policy = ChunkPolicy(RUN_SEED)
    policy.on_actor(weights)
    messages = []

    def add(topic, message, when):
        messages.append((topic, message, when))

    for epoch, phase, step in (
        (BASE_EPOCH, EpisodeState.PHASE_BASE, 0),
        (CRITICAL_EPOCH, EpisodeState.PHASE_CRITICAL, HANDOFF),
        (CRITICAL_EPOCH + 1, EpisodeState.PHASE_LABELLED, STEPS),
    ):
        state = EpisodeState(
            task=TASK.name,
            episode_id=EPISODE,
            epoch=epoch,
            phase=phase,
            purpose=EpisodeState.PURPOSE_TRAIN,
            driver=EpisodeState.DRIVER_VLA if phase == EpisodeState.PHASE_BASE else EpisodeState.DRIVER_RL,
            explore=True,
            actor_version=weights.version,
            label=EpisodeState.LABEL_SUCCESS if phase == EpisodeState.PHASE_LABELLED else EpisodeState.LABEL_NONE,
        )
        state.header.stamp = to_time(stamp(step))
        add(topics.EPISODE_STATE, state, stamp(step))
    for step, observation in observations.items():
        encodings = [camera.encoding for camera in ROBOT.cameras]
        message = observation_to_msg(observation, encodings, [0.0] * len(encodings))
        add(topics.OBSERVATION, message, stamp(step))
    for number, step in enumerate(BOUNDARIES, start=1):
        epoch, observation = (BASE_EPOCH if step < HANDOFF else CRITICAL_EPOCH), observations[step]
        answer = run_observation(model, model.batch([observation]), seeds[step])
        message = vla_message(observation, model, *answer[:2], seeds[step], epoch, number)
        policy.on_episode(Episode(EPISODE, epoch, step >= HANDOFF, True, weights.version))
        policy.on_request(Request(EPISODE, epoch, number, step, step, 10))
        policy.on_output(output(message))
        chunk = policy.answer()
        assert chunk is not None
        add(topics.VLA_OUTPUT, message, stamp(step))
        add(topics.ACTION_CHUNK, chunk_message(chunk, [arm.name for arm in ROBOT.arms]), stamp(step))
    strided = [step for step in observations if HANDOFF <= step < STEPS and step not in BOUNDARIES]
    tokens, references, _ = run_batch(
        model,
        model.batch([observations[step] for step in strided]),
        [seeds[step] for step in strided],
        size=GROUP,
    )
    for i, step in enumerate(strided):
        message = vla_message(observations[step], model, tokens[i], references[i], seeds[step], CRITICAL_EPOCH, 0)
        add(topics.VLA_OUTPUT, message, stamp(STEPS))
    for step in range(STEPS):
        executed = ExecutedAction(
            episode_id=EPISODE,
            epoch=BASE_EPOCH if step < HANDOFF else CRITICAL_EPOCH,
            step=step,
            phase=EpisodeState.PHASE_BASE if step < HANDOFF else EpisodeState.PHASE_CRITICAL,
            source=ExecutedAction.SOURCE_RL,
        )
        executed.header.stamp = to_time(stamp(step))
        add(topics.EXECUTED_ACTION, executed, stamp(step))
    return messages


def write(path, messages, texts=None, **facts):
    writer = EpisodeWriter(path)
    for topic, message, when in messages:
        writer.write(topic, f"rlt_msgs/msg/{type(message).__name__}", serialize_message(message), when)
    known = {"task": TASK.name, "robot": ROBOT.name, "episode_id": EPISODE, "config_hash": config_hash(ROBOT, TASK)}
    writer.finish({**known, **facts}, texts)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def messages(run):
    return record(run)


@pytest.fixture(scope="module")
def bag(run, messages):
    return write(run / "episodes" / f"{EPISODE:06d}.mcap", messages)


@pytest.fixture(scope="module")
def recording(bag):
    return replay_plan.gather(read_messages(bag, replay_plan.TOPICS), EPISODE)


def altered(messages, kind, change):
    """The messages with `change` made to the first of a type."""
    changed = []
    for topic, message, when in messages:
        if isinstance(message, kind) and change is not None:
            copy = type(message)(
                **{
                    name.lstrip("_"): getattr(message, name.lstrip("_"))
                    for name in message.get_fields_and_field_types()
                }
            )
            change(copy)
            message, change = copy, None
        changed.append((topic, message, when))
    return changed


def prepare(bag, run, **wanted):
    return replay_source.prepare(bag, Wanted(run=run, **wanted), bag.parent / "scratch")


# -- over DDS


def test_an_episode_gives_the_same_answers_again(run, bag):
    command = [sys.executable, "-m", "rlt_bringup.replay", "--bag", bag, "--output"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("the same\n")
    written = json.loads((run / "episodes" / f"{EPISODE:06d}.replay.json").read_text())
    assert written["equal"]
    assert (written["episode_id"], written["actor_version"], written["notes"]) == (EPISODE, 2, [])
    of_kind = {kind: [m for m in written["messages"] if m["kind"] == kind] for kind in (BOUNDARY, STRIDED, CHUNK)}
    assert [m["step"] for m in of_kind[BOUNDARY]] == list(BOUNDARIES)
    assert len(of_kind[STRIDED]) == 8
    assert all(m["equal"] and m["max_difference"] == 0.0 for m in of_kind[BOUNDARY] + of_kind[CHUNK])
    assert "written: " + str(run / "episodes" / f"{EPISODE:06d}.replay.html") in result.stdout


def test_a_changed_answer_is_found_and_another_actor_compared(run, messages, tmp_path, capsys):
    def shift(message):
        values = np.array(message.reference)
        values[5] += 0.25
        message.reference = floats(values)

    changed = write(tmp_path / "episodes" / "000012.mcap", altered(messages, VlaOutput, shift))
    make_actor(tmp_path / "other", load_checkpoint(run / "vla"), releases=3, seed=1)
    vla, other = str(run / "vla"), str(tmp_path / "other" / "checkpoints" / "final")
    with pytest.raises(SystemExit) as end:
        replay.main(["--bag", str(changed), "--checkpoint", vla, "--actor", other, "--pace", "50", "--output"])
    text = capsys.readouterr().out
    assert end.value.code == 1, text
    assert "step 0: vla_output, boundary" in text
    assert "differs by up to 0.25" in text
    assert f"actor {other} (version 3) stands for version 2: not judged" in text
    assert text.endswith("NOT the same\n")
    written = json.loads(changed.with_suffix(".replay.json").read_text())
    chunks = {chunk["step"]: chunk for chunk in written["chunks"]}
    assert chunks[0]["difference"] == 0.0, "the VLA's rows pass through"
    assert all(chunks[step]["difference"] > 0.0 for step in (10, 20))
    assert [m["judged"] for m in written["messages"] if m["kind"] == CHUNK] == [True, False, False]
    assert written["critics"] == ["the critic of final"]
    assert all(chunks[step]["q_played"]["the critic of final"] is not None for step in (10, 20))
    assert "What would another checkpoint have done here?" in changed.with_suffix(".replay.html").read_text()


# -- what does not fit


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        replay.main([str(argument) for argument in arguments])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_several_episodes_are_named_by_files_or_by_numbers_of_a_run(bag, run, capsys):
    one = bag.parent / "000012.mcap"
    given = replay._parser().parse_args
    assert replay._bags(given(["--bag", f"{one},{one}", str(one)])) == [one] * 3
    assert replay._bags(given(["--run", str(run), "--episodes", "12"])) == [one]
    assert "has no episode 13; it has 12 to 12" in fails(capsys, "--run", run, "--episodes", "12-13")
    assert "give --bag FILE, or --run FOLDER" in fails(capsys)
    assert "give one of them" in fails(capsys, "--bag", one, "--run", run, "--episodes", "12")
    assert "--output FILE is for one episode" in fails(capsys, "--bag", one, one, "--output", "x.json")


def test_missing_and_foreign_files_end_with_status_2(run, tmp_path, capsys):
    assert "No such file" in fails(capsys, "--bag", tmp_path / "none.mcap", "--run", run)
    foreign = tmp_path / "foreign.mcap"
    foreign.write_bytes(b"not an episode")
    assert f"{foreign}: not a whole episode file" in fails(capsys, "--bag", foreign, "--run", run)


def test_a_torn_episode_is_refused(bag, tmp_path):
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(bag.read_bytes()[:-200])
    with pytest.raises(EpisodeFileError, match=r"torn\.mcap"):
        prepare(torn, tmp_path)


def test_a_missing_and_another_vla_are_refused(bag, tmp_path, messages):
    with pytest.raises(CheckpointError, match="no VLA checkpoint here"):
        prepare(bag, tmp_path)

    def other(message):
        message.vla_hash = "0123456789abcdef"

    mixed = write(tmp_path / "000012.mcap", altered(messages, VlaOutput, other))
    with pytest.raises(ReplayError, match=r"recorded with VLA 0123456789abcdef, .*give the VLA checkpoint of that run"):
        prepare(mixed, bag.parent.parent)


def test_the_run_seed_is_found_and_a_wrong_one_refused(bag):
    prepared = prepare(bag, bag.parent.parent)
    assert {node.parameters["run_seed"] for node in prepared.nodes} == {RUN_SEED}
    assert [node.name for node in prepared.nodes] == ["vla", "rl_policy"]
    with pytest.raises(ReplayError, match="another run seed than 4"):
        prepare(bag, bag.parent.parent, seed=4)


def test_an_actor_of_another_vla_is_refused_and_one_of_another_version_stands_for_the_recorded(bag, run, tmp_path):
    foreign = load_checkpoint(run / "vla")
    make_actor(tmp_path, dataclasses.replace(foreign, hash="f" * 16))
    with pytest.raises(ReplayError, match="was trained on VLA ffffffffffffffff"):
        prepare(bag, run, actor=str(tmp_path / "checkpoints" / "final"))
    older = make_actor(tmp_path / "older", foreign, releases=1)
    assert older.version == 1
    stands = prepare(bag, run, actor=str(tmp_path / "older" / "checkpoints" / "final"))
    assert (stands.actor.version, stands.judgement) == (2, Judgement(2, another_actor=True))
    own = str(run / "checkpoints" / "final")
    assert prepare(bag, run).judgement == prepare(bag, run, actor=own).judgement == Judgement(2)
    make_actor(tmp_path / "warm-up", foreign, releases=0)
    with pytest.raises(ReplayError, match="written in warm-up"):
        prepare(bag, run, actor=str(tmp_path / "warm-up" / "checkpoints" / "final"))


def test_another_vla_that_was_named_is_compared_and_not_judged(messages, run, tmp_path):
    def other(message):
        message.vla_hash = "0123456789abcdef"

    for_another = [entry for m in messages for entry in altered([m], VlaOutput, other)]
    bag = write(tmp_path / "000012.mcap", for_another)
    found = prepare(bag, run, checkpoint=str(run / "vla"))
    assert found.judgement == Judgement(0, another_vla=True)
    assert "recorded with VLA 0123456789abcdef" in found.notes[0]


def test_a_robot_of_other_joints_is_refused(bag, run, messages, tmp_path):
    def fewer(message):
        message.joint_names = ["left_waist"]

    other = write(tmp_path / "000012.mcap", altered(messages, ExecutedAction, fewer))
    with pytest.raises(ReplayError, match="give a robot file of the same arms with --robot"):
        prepare(other, run)


def test_an_actor_may_refine_what_the_vla_drove(messages, run, tmp_path):
    """Warm-up: no chunk is refined. With an actor at hand RL drives the critical phase."""

    def by_the_vla(message):
        message.policy_version, message.source = 0, message.SOURCE_VLA

    def vla_drives(message):
        message.driver, message.actor_version = EpisodeState.DRIVER_VLA, 0

    warm = [entry for m in messages for entry in altered([m], ActionChunk, by_the_vla)]
    warm = [entry for m in warm for entry in altered([m], EpisodeState, vla_drives)]
    found = prepare(write(tmp_path / "000012.mcap", warm), run, actor=str(run / "checkpoints" / "final"))
    assert found.judgement == Judgement(1, another_actor=True, rl_drives=True)
    steps = replay_plan.plan(found.recording, found.judgement)
    states = [s.message for s in steps if isinstance(s, Publish) and s.topic == topics.EPISODE_STATE]
    assert [state.driver for state in states] == [EpisodeState.DRIVER_VLA, EpisodeState.DRIVER_RL]
    assert all(s.chunk for s in steps if isinstance(s, Await))


def test_an_unknown_run_seed_has_to_be_given(bag, messages, tmp_path):
    def far(message):
        message.noise_seed = 1

    lost = write(tmp_path / "000012.mcap", altered(messages, VlaOutput, far))
    with pytest.raises(ReplayError, match="give it with --seed"):
        prepare(lost, bag.parent.parent)


def test_changed_configuration_is_noted(messages, run, tmp_path):
    old = write(tmp_path / "000012.mcap", messages, config_hash="feed")
    assert "changed since the recording: feed then" in prepare(old, run).notes[0]


TEXTS = {kind: config_file(f"{kind}s", name).read_text() for kind, name in (("robot", "sim"), ("task", "screw"))}


def read_back(prepared):
    """Robot and task as each of the nodes reads them."""
    files = {(node.parameters["robot"], node.parameters["task"]) for node in prepared.nodes}
    ((robot, task),) = files
    return load_robot(robot), load_task(task)


def test_robot_and_task_are_those_in_the_episode_and_not_the_shipped_ones_of_the_same_name(messages, run, tmp_path):
    own_limits = TEXTS["robot"] + "\njoint_velocity_limits: {left_waist: 0.25}\n"
    own_limits = own_limits.replace("sim_arms.xml", "/elsewhere/sim_arms.xml")
    own_task = TEXTS["task"].replace("name: screw", "name: my_task").replace("stride: 2", "stride: 2  # mine")
    bag = write(tmp_path / "000012.mcap", messages, {"robot": own_limits, "task": own_task}, task="my_task")
    found = prepare(bag, run)
    robot, task = read_back(found)
    assert found.robot.joint_velocity_limits == robot.joint_velocity_limits == {"left_waist": 0.25}
    assert (found.robot.kinematics_path, robot.limits) == (ROBOT.kinematics_path, ROBOT.limits)
    assert found.task == task == dataclasses.replace(TASK, name="my_task")
    assert "the model of the arms, sim_arms.xml, is the shipped one" in found.notes[0]
    given = prepare(bag, run, robot="sim", task="screw")
    assert (given.robot, given.task, read_back(given)) == (ROBOT, TASK, (ROBOT, TASK)), "what is given counts"


def test_a_shipped_model_of_the_arms_is_taken_only_where_it_is_the_recorded_one(messages, run, tmp_path):
    renamed = {**TEXTS, "robot": TEXTS["robot"].replace("name: sim", "name: my_robot", 1)}
    for texts in (TEXTS, renamed):
        own = write(tmp_path / "000012.mcap", messages, texts, kinematics_hash=kinematics_hash(ROBOT))
        found = prepare(own, run)
        assert (found.robot.kinematics_path, found.notes) == (ROBOT.kinematics_path, ())
        moved = write(tmp_path / "000012.mcap", messages, texts, kinematics_hash="of arms that stand elsewhere")
        with pytest.raises(ParameterError, match=r"another model of the arms, sim_arms.xml.*give .* with --robot"):
            prepare(moved, run)
        assert prepare(moved, run, robot="sim").robot == ROBOT


def test_what_was_recorded_with_shipped_files_is_played_with_them(messages, run, tmp_path):
    bag = write(tmp_path / "000012.mcap", messages, TEXTS, config_hash="of an earlier version")
    found = prepare(bag, run)
    assert (read_back(found), found.notes) == ((ROBOT, TASK), ())
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("texts", "facts", "words"),
    [
        (
            {"robot": TEXTS["robot"].replace("sim_arms.xml", "mine.xml")},
            {},
            "not the model of the arms .* mine.xml: give",
        ),
        (
            {"robot": TEXTS["robot"].replace("sim_arms.xml", "/etc/passwd")},
            {},
            "the robot file with --robot",
        ),
        ({"task": "name: [screw"}, {}, "the task file in .* not valid YAML.*give it with --task"),
        ({"task": TEXTS["task"] + "\nstrid: 2\n"}, {}, "unknown key 'strid'.*give it with --task"),
        (None, {"task": "my_task"}, "does not hold its file: tasks: no 'my_task'.*give it with --task"),
    ],
)
def test_a_configuration_that_cannot_be_had_from_the_episode_wants_to_be_given(
    messages, run, tmp_path, texts, facts, words
):
    bag = write(tmp_path / "000012.mcap", messages, texts, **facts)
    with pytest.raises(ParameterError, match=f"(?s){words}"):
        prepare(bag, run)
    assert prepare(bag, run, robot="sim", task="screw").task == TASK


@pytest.mark.parametrize("key", ["robot", "task"])
@pytest.mark.parametrize("name", ["/tmp/own.yaml", "../tasks/screw", "own.yaml", "", "a\nb"])
def test_an_episode_file_cannot_name_a_configuration_by_its_path(messages, run, tmp_path, key, name):
    foreign = write(tmp_path / "000012.mcap", messages, **{key: name})
    with pytest.raises(ParameterError, match=f"its {key} .* is no name: say which with --{key}"):
        prepare(foreign, run)


def test_a_demonstration_has_nothing_to_compare(messages, tmp_path):
    quiet = [entry for entry in messages if entry[0] != topics.VLA_OUTPUT]
    with pytest.raises(ReplayError, match="is it a demonstration"):
        prepare(write(tmp_path / "000012.mcap", quiet), tmp_path)


def test_without_states_neither_phase_nor_driver_is_known(messages, tmp_path):
    blind = [entry for entry in messages if entry[0] != topics.EPISODE_STATE]
    with pytest.raises(ReplayError, match="no state of episode 12"):
        prepare(write(tmp_path / "000012.mcap", blind), tmp_path)


# -- order and comparison


def test_order_of_playing(recording):
    steps = replay_plan.plan(recording, Judgement(2))
    published = [step.topic for step in steps if isinstance(step, Publish)]
    assert published[:3] == [topics.EPISODE_STATE, topics.CHUNK_REQUEST, topics.OBSERVATION]
    assert published[-1] == topics.CONTROL_STATE
    awaited = [step for step in steps if isinstance(step, Await)]
    assert [step.request.boundary_step for step in awaited] == list(BOUNDARIES)
    assert all(step.chunk and step.request.rows == 10 for step in awaited)
    assert steps[-1].message.step == STEPS
    # Each state precedes the requests of its epoch and follows those of the one before.
    epochs = [
        s.message.epoch
        for s in steps
        if isinstance(s, Publish) and s.topic in (topics.EPISODE_STATE, topics.CHUNK_REQUEST)
    ]
    assert epochs == [BASE_EPOCH, BASE_EPOCH, CRITICAL_EPOCH, CRITICAL_EPOCH, CRITICAL_EPOCH]
    # The end of the episode is not played: it would close what is being compared.
    assert all(state.phase != EpisodeState.PHASE_LABELLED for state in recording.states)


def test_requests_of_another_actor_are_put_to_the_vla_alone(recording):
    awaited = [step for step in replay_plan.plan(recording, Judgement(0)) if isinstance(step, Await)]
    assert [step.chunk for step in awaited] == [True, False, False]
    found = replay_plan.compare(recording, *answers(recording), Judgement(0))
    assert found.notes == ["2 chunks of actor version 2 are left out: no actor of that version was found"]


def test_a_repeated_answer_counts_once_and_other_episodes_not_at_all(messages, tmp_path):
    def foreign(message):
        message.episode_id = EPISODE - 1

    doubled = messages + [entry for entry in messages if entry[0] == topics.VLA_OUTPUT]
    doubled += altered([entry for entry in messages if entry[0] == topics.ACTION_CHUNK][:1], object, foreign)
    bag = write(tmp_path / "double.mcap", doubled)
    gathered = replay_plan.gather(read_messages(bag, replay_plan.TOPICS))
    assert gathered.episode_id == EPISODE
    assert (len(gathered.boundaries), len(gathered.strided), len(gathered.chunks)) == (3, 8, 3)


def answers(recording):
    return dict(recording.boundaries), dict(recording.strided), dict(recording.chunks)


def nudged(message, name, by):
    values = np.array(getattr(message, name))
    values[0] += np.float32(by)
    fields = {field: getattr(message, field) for field in message.get_fields_and_field_types()}
    return type(message)(**{**fields, name: floats(values)})


def test_a_boundary_must_be_equal_to_the_bit_and_a_strided_output_within_the_tolerance(recording):
    outputs, strided, chunks = answers(recording)
    assert all(row.equal for row in replay_plan.compare(recording, outputs, strided, chunks, Judgement(2)).rows)
    key = next(iter(strided))
    strided[key] = nudged(strided[key], "rl_token", 1e-5)
    close = replay_plan.compare(recording, outputs, strided, chunks, Judgement(2))
    assert close.equal
    assert sum(not row.equal for row in close.rows) == 1
    outputs[1] = nudged(outputs[1], "rl_token", 1e-5)
    assert not replay_plan.compare(recording, outputs, strided, chunks, Judgement(2)).equal


@pytest.mark.parametrize("spoil", ["missing", "shape", "nan"])
def test_what_does_not_compare_is_not_the_same(recording, spoil):
    outputs, strided, chunks = answers(recording)
    if spoil == "missing":
        del chunks[2]
    elif spoil == "nan":
        chunks[2] = nudged(chunks[2], "actions", np.nan)
    else:
        fields = {field: getattr(chunks[2], field) for field in chunks[2].get_fields_and_field_types()}
        chunks[2] = type(chunks[2])(**{**fields, "actions": chunks[2].actions[:-14]})
    comparison = replay_plan.compare(recording, outputs, strided, chunks, Judgement(2))
    assert [(row.kind, row.step) for row in comparison.rows if not row.within] == [(CHUNK, 10)]
    assert "step 10: action_chunk" in replay_plan.format_comparison(comparison)


def test_a_lost_observation_is_named(recording):
    observations = {key: value for key, value in recording.observations.items() if key != stamp(10)}
    torn = replay_plan.Recording(**{**vars(recording), "observations": observations})
    outputs, strided, chunks = answers(recording)
    del outputs[2], chunks[2]
    comparison = replay_plan.compare(torn, outputs, strided, chunks, Judgement(2))
    assert not comparison.equal
    assert "1 boundary outputs have no observation" in comparison.notes[0]
