"""Options of the training commands: every parameter, on top of the task's."""

import argparse

import pytest
import torch

from rlt_vla_node import training_options
from rlt_vla_node.vla_adapt_config import VlaAdaptConfig


def given(*words):
    parser = argparse.ArgumentParser()
    training_options.add_options(parser, VlaAdaptConfig, seed_help="of every random draw")
    options = parser.parse_args(
        ["--robot", "cell", "--task", "screw", "--threads", str(torch.get_num_threads()), *words]
    )
    found = training_options.apply(options, "adapt")
    return {name: value for name, value in found.items() if value is not None}


def test_what_is_not_given_is_left_to_the_task():
    assert given() == {}
    assert given("--batch", "2", "--train", "lora") == {"batch": 2, "train": "lora"}


def test_a_switch_is_on_or_off_without_a_value():
    assert given("--gradient-checkpointing") == {"gradient_checkpointing": True}
    assert given("--no-gradient-checkpointing") == {"gradient_checkpointing": False}
    with pytest.raises(SystemExit):
        given("--gradient-checkpointing", "false")
