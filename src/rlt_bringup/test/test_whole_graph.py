"""The main job, small, through every real process: demonstrations to report, with processes killed on the way."""

import json
import os
import signal
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from harness.against_graph import Recorded

from rlt_bringup import demo
from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_common.episode_file import episode_metadata, read_messages
from rlt_msgs.msg import EpisodeState, OperatorEvent

PICTURE = {
    "observation",
    "vla_output",
    "action_chunk",
    "executed_action",
    "episode_state",
    "operator_event",
}


class Kills(threading.Thread):
    """Kills nodes when the manager's log shows that an episode has begun, as an accident would."""

    def __init__(self, run, plan):
        super().__init__(daemon=True)
        self.run_folder, self.plan, self.done = run, list(plan), []
        self.stopped = threading.Event()

    def run(self):
        while self.plan and not self.stopped.wait(0.05):
            episode, name = self.plan[0]
            log = self.run_folder / "log" / "episode_manager.log"
            if log.exists() and f"episode {episode}: CRITICAL" in log.read_text(errors="replace"):
                pid = process_of(name, self.run_folder)
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    self.done.append(self.plan.pop(0))


def process_of(name, run):
    """Process id of a node of this run: its parameter file or its command line names both."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if f"__node:={name}" in command and parent == os.getpid():
            return int(folder.name)
    return None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One quick demo, in which the VLA and the learner are killed in the middle of a critical phase."""
    run = tmp_path_factory.mktemp("demo") / "run"
    kills = Kills(run, [(1, "vla"), (3, "rl_learner"), (4, "rl_policy")])
    kills.start()
    try:
        demo.main(["--quick", "--run", str(run), "--seed", "5"])
    finally:
        kills.stopped.set()
    return run, kills


@pytest.mark.timeout(900)
def test_the_run_goes_on_after_kills_and_ends_with_the_report(finished):
    run, kills = finished
    assert [name for _, name in kills.done] == ["vla", "rl_learner", "rl_policy"]
    report = json.loads((run / "report.json").read_text())
    for policy in ("base", "rlt"):
        assert report[policy]["episodes"] == demo.QUICK.evaluation_episodes
        assert 0 <= report[policy]["successes"] <= report[policy]["episodes"]
    assert report["base"]["seeds"] == report["rlt"]["seeds"]
    assert report["training"]["episodes"] == demo.QUICK.training_episodes
    assert report["training"]["updates"] >= demo.QUICK.learner["budget.initial_updates"]
    assert report["vla"]["shuffled_loss"] > 0
    assert report["wall_minutes"] > 0


def test_nothing_labelled_is_lost(finished):
    run, _ = finished
    files = sorted((run / "episodes").glob("*.mcap"))
    scale = demo.QUICK
    assert len(files) == scale.training_episodes + 3 * scale.evaluation_episodes + scale.deploy_episodes
    labels = {episode_metadata(path)["label"] for path in files}
    assert labels <= {"success", "failure", "timeout"}
    assert not list((run / "episodes").glob("*.part"))


def test_deployed_episodes_have_no_operator_s_hand_off_and_every_output_says_how_likely_it_is(finished):
    run, _ = finished
    deployed = [p for p in (run / "episodes").glob("*.mcap") if episode_metadata(p)["purpose"] == "deploy"]
    assert len(deployed) == demo.QUICK.deploy_episodes
    for path in deployed:
        entries = list(read_messages(path, ["operator_event", "vla_output", "episode_state"]))
        events = [e.message.event for e in entries if e.topic == "operator_event"]
        assert OperatorEvent.EVENT_HANDOFF not in events
        outputs = [e.message for e in entries if e.topic == "vla_output"]
        assert outputs
        assert all(0.0 <= o.handoff_probability <= 1.0 and 0.0 < o.handoff_threshold < 1.0 for o in outputs)
        states = [e.message for e in entries if e.topic == "episode_state"]
        critical = [s for s in states if s.phase == EpisodeState.PHASE_CRITICAL]
        base = [o for o in outputs if o.is_boundary and (not critical or o.epoch < critical[0].epoch)]
        called = [o for o in base if o.handoff_probability >= o.handoff_threshold]
        assert bool(called) == bool(critical)
        assert not critical or critical[0].reason == "hand-off by auto_handoff"
    report = json.loads((run / "report.json").read_text())
    assert report["handoff"]["episodes"] == {"train": 3, "validation": 1, "test": 1}
    assert report["handoff"]["deploy"]["automatic"]["episodes"] == demo.QUICK.deploy_episodes


def test_every_episode_file_has_the_picture_and_steps_without_a_gap(finished):
    run, _ = finished
    for path in sorted((run / "episodes").glob("*.mcap")):
        topics, steps = set(), []
        for entry in read_messages(path):
            topics.add(entry.topic)
            if entry.topic == "executed_action":
                steps.append(entry.message.step)
        assert topics >= PICTURE, path
        assert steps == list(range(len(steps))), path


def test_no_arm_moved_without_a_chunk(finished):
    """While a killed process was away the executor held: every moving step plays a row of a chunk of its episode."""
    run, _ = finished
    for path in sorted((run / "episodes").glob("*.mcap")):
        chunks = {e.message.chunk_id: e.message for e in read_messages(path, ["action_chunk"])}
        for entry in read_messages(path, ["executed_action"]):
            message = entry.message
            if message.source in (message.SOURCE_VLA, message.SOURCE_RL):
                chunk = chunks[message.chunk_id]
                assert message.step == chunk.first_step + message.row
                assert (message.episode_id, message.epoch) == (chunk.episode_id, chunk.epoch)
            else:
                assert not any(message.action)


def test_in_process_the_same_steps_are_executed_bit_for_bit(finished):
    """The warm-up, in which the VLA was killed, and the first evaluation episode of each policy, RL's among them.

    Training with RL is left out: a learner misses what the killed VLA had not encoded yet.
    """
    run, _ = finished
    recorded = Recorded(run)
    first = demo.QUICK.training_episodes + 1
    evaluation = [first + i * demo.QUICK.evaluation_episodes for i in range(3)]
    found = [*recorded.check_training(2), *recorded.check_evaluation(evaluation)]
    assert [c.episode_id for c in found] == [1, 2, *evaluation]
    assert [str(c) for c in found if not c.equal] == []


def test_the_learner_resumed_where_it_was(finished):
    run, _ = finished
    updates = [
        json.loads(line)["updates"]
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if "updates" in json.loads(line)
    ]
    assert updates
    assert updates[-1] >= updates[0]


def test_the_page_is_self_contained(finished):
    run, _ = finished
    outside = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attributes):
            outside.extend(v for k, v in attributes if k in ("src", "href") and v and v.startswith(("http", "//")))

    page = (run / "report.html").read_text(encoding="utf-8")
    Links().feed(page)
    assert not outside
    assert "RLT" in page


def test_another_seed_does_not_go_into_the_same_run(finished):
    run, _ = finished
    with pytest.raises(SystemExit, match="holds a run with another seed"):
        demo.main(["--quick", "--run", str(run), "--seed", "6"])


def test_the_same_command_again_only_reports(finished, capsys):
    run, _ = finished
    demo.main(["--quick", "--run", str(run), "--seed", "5"])
    out = capsys.readouterr().out
    assert out.count("done before, kept") == 4
    assert "RLT over base" in out


def test_preparing_again_starts_no_graph_and_reports_nothing(finished, capsys):
    run, _ = finished
    demo.main(["--quick", "--run", str(run), "--seed", "5", "--prepare"])
    out = capsys.readouterr().out
    assert out.count("done before, kept") == 2
    assert "train" not in out


def test_the_graph_of_the_run_is_the_described_one(finished):
    run, _ = finished
    modes = ("train", "deploy")
    names = {node.name for mode in modes for node in describe(resolve(GraphOptions(run=str(run), mode=mode)))}
    told = {"graph"}  # what the runner says of the killed ones
    assert {path.stem for path in (run / "log").glob("*.log")} == names | told
