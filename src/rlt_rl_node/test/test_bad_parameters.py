"""A node that is started wrongly ends at once and says what was wrong."""

from __future__ import annotations

import json
import sys

import pytest
import rclpy
from rl_graph import write_files

from rlt_rl_node import learner_node, policy_node


@pytest.mark.parametrize(
    ("node", "change", "words"),
    [
        (policy_node, {"no_such": 1}, "knows no parameter 'no_such'"),
        (policy_node, {"run_seed": -1}, "run_seed"),
        (policy_node, {"run_seed": "one"}, "run_seed"),
        (policy_node, {"vla_checkpoint": "/nowhere"}, "/nowhere/config.json: No such file"),
        (policy_node, {"task": "/nowhere.yaml"}, "/nowhere.yaml"),
        (learner_node, {"agent.betta": 1.0}, "knows no parameter 'agent.betta'"),
        (learner_node, {"agent.gamma": 1.5}, "agent.gamma"),
        (learner_node, {"agent.actor_objective": "max"}, "choose one of min, bound, first"),
        (learner_node, {"checkpoint": "/nowhere"}, "checkpoint /nowhere"),
        (learner_node, {"freeze": True, "checkpoint": "/nowhere"}, "checkpoint /nowhere"),
        (learner_node, {"vla_checkpoint": "/nowhere"}, "give the folder"),
    ],
)
def test_the_reason_is_named(tmp_path, monkeypatch, node, change, words):
    parameters = {**write_files(tmp_path), **change}
    if node is learner_node:
        parameters["run_directory"] = str(tmp_path / "run")
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={json.dumps(value)}")]
    monkeypatch.setattr(sys, "argv", ["node", "--ros-args", *arguments])
    try:
        with pytest.raises(SystemExit) as end:
            node.main()
    finally:
        rclpy.try_shutdown()
    assert words in str(end.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hash": None}, "key 'hash' is missing"),
        ({"statistics": {"action_spread": [1.0]}}, "must be 7 positive numbers"),
        ({"statistics": {"action_spread": [0.0] * 7}}, "must be 7 positive numbers"),
        ({"token": {"token_dim": "wide"}}, "not a VLA checkpoint"),
        ({"token": []}, "not a VLA checkpoint"),
    ],
)
def test_facts_of_the_vla_checkpoint_are_checked(tmp_path, change, words):
    path = write_files(tmp_path)["vla_checkpoint"]
    config = json.loads((tmp_path / "vla" / "config.json").read_text())
    config = {key: value for key, value in {**config, **change}.items() if value is not None}
    (tmp_path / "vla" / "config.json").write_text(json.dumps(config))
    with pytest.raises(policy_node.FrozenModelsError, match=words):
        policy_node.read_frozen_models(path, action_dim=7)
