"""The nodes may come up in any order, however far apart: no node waits to be told that another one is there.

Nothing in the graph is a managed (lifecycle) node because nothing has to be. States are latched, so who comes late
learns them; a request that nobody answered is repeated; what would move an arm waits for its inputs. Were an order
needed, a node that is killed and respawned in the middle of a run would need it too.
"""

import contextlib
import random
import time

import pytest
from harness.untrained_run import prepare

from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_bringup.runner import GraphRunner
from rlt_common.episode_file import read_messages

EPISODES = 2
LIMIT_S = 240.0
LONGEST_DELAY_S = 2.0


def in_reverse(nodes, _):
    return list(reversed(nodes))


def at_random(nodes, generator):
    return generator.sample(nodes, len(nodes))


def executed(run, order, seed):
    """Start the nodes one by one with pauses in between; what the arms did in the first episodes: (steps, values)."""
    generator = random.Random(seed)
    task = prepare(run)
    nodes = describe(resolve(GraphOptions(run=str(run), task=str(task), mode="train")))
    with contextlib.ExitStack() as running:
        runners = []
        for node in order(nodes, generator):
            runners.append(running.enter_context(GraphRunner([node], run / "log")))
            time.sleep(generator.uniform(0.0, LONGEST_DELAY_S))
        end = time.monotonic() + LIMIT_S
        last = run / "episodes" / f"{EPISODES:06d}.mcap"
        while not last.exists():
            assert time.monotonic() < end, "\n".join(r.log_end(n.name) for r, n in zip(runners, nodes, strict=True))
            for runner in runners:
                runner.poll()
            time.sleep(0.1)
    return [
        [(e.message.step, e.message.source, tuple(e.message.action)) for e in read_messages(path, ["executed_action"])]
        for path in sorted((run / "episodes").glob("*.mcap"))[:EPISODES]
    ]


@pytest.mark.timeout(600)
def test_in_whatever_order_the_nodes_start_the_arms_do_the_same(tmp_path):
    first = executed(tmp_path / "reverse", in_reverse, seed=1)
    assert len(first) == EPISODES
    assert all(len(steps) > 50 for steps in first)
    assert executed(tmp_path / "random", at_random, seed=2) == first
