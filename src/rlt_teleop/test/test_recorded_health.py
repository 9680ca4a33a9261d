"""Which diagnostics are this robot's, and what of them becomes a fact of its episodes."""

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from rlt_teleop.recorded_health import about_vla, own


def array(*names, **values):
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticArray(status=[DiagnosticStatus(name=name, values=pairs) for name in names])


@pytest.mark.parametrize(
    ("namespace", "kept"),
    [
        ("/", ["vla", "ur_driver: joints: left"]),
        ("/cell_a", ["cell_a/vla", "cell_a/left/driver"]),
        ("/cell_b", []),
        ("/cell", []),
    ],
)
def test_each_robot_keeps_its_own(namespace, kept):
    message = array("vla", "cell_a/vla", "cell_a/left/driver", "ur_driver: joints: left")
    message.header.frame_id = "base"
    found = own(message, namespace)
    assert ([status.name for status in found.status] if found else []) == kept
    assert found is None or found.header == message.header


def test_what_the_vla_runs_on_is_a_fact_and_no_other_node_s():
    said = {"device": "cpu", "torch": "2.13.0", "pending": "3"}
    assert about_vla(array("cell_a/vla", **said)) == {"vla_device": "cpu", "vla_torch": "2.13.0"}
    assert about_vla(array("rl_policy", **said)) == {}
