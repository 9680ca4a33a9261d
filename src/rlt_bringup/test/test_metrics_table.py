"""The table of figures and the code say the same: what is written and published is in it, and nothing else is."""

import ast
from pathlib import Path

import pytest

from rlt_common.metrics_table import FILES, METRICS, STATUS
from rlt_control.real_time import TickLateness
from rlt_msgs.msg import TrainingStatus
from rlt_teleop.operator_actions import BUTTON

ROOT = Path(__file__).resolve().parents[3]
NODES = sorted((ROOT / "src").glob("rlt_*/rlt_*/*_node.py"))


def node_name(tree):
    """What a node is called: the argument of `super().__init__`."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "__init__":
            return call.args[0].value
    return None


def published(tree):
    """Names of all values that a node gives `self._health.set`; of those made in a loop the fixed beginning."""
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "set"):
            continue
        if not (isinstance(call.func.value, ast.Attribute) and call.func.value.attr == "_health"):
            continue
        for keyword in call.keywords:
            if keyword.arg:
                yield keyword.arg
            elif isinstance(keyword.value, ast.DictComp):
                yield beginning(keyword.value.key)
            elif isinstance(keyword.value, ast.IfExp):
                yield from (key.value for key in keyword.value.body.keys)
            else:
                assert ast.unparse(keyword.value) == "self._lateness.values()"
                yield from TickLateness().values()


def beginning(key):
    if isinstance(key, ast.JoinedStr):
        return key.values[0].value + "<"
    assert ast.unparse(key) == "BUTTON + name"
    return BUTTON + "<"


def documented(where):
    return {name.partition("<")[0] + ("<" if "<" in name else "") for name in METRICS[where]}


@pytest.fixture(scope="module")
def diagnostics():
    found = {}
    for path in NODES:
        tree = ast.parse(path.read_text())
        if names := set(published(tree)):
            found[node_name(tree)] = names
    return found


def test_every_node_with_values_on_diagnostics_is_in_the_table_and_the_reverse(diagnostics):
    assert set(diagnostics) == set(METRICS) - set(FILES)
    assert len(diagnostics) >= 12


def test_every_value_on_diagnostics_is_explained_and_the_reverse(diagnostics):
    for node, names in diagnostics.items():
        assert names == documented(node), node


def test_every_field_of_training_status_is_explained_and_the_reverse():
    assert set(METRICS[STATUS]) == set(TrainingStatus.get_fields_and_field_types()) - {"header"}


def test_every_figure_has_a_meaning_and_says_what_to_do_only_where_it_says_what_is_healthy():
    for where, metrics in METRICS.items():
        for name, metric in metrics.items():
            assert metric.meaning, (where, name)
            assert metric.healthy or not metric.otherwise, (where, name)
