"""Which diagnostics are this robot's."""

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from rlt_teleop.recorded_health import own


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
    names = ("vla", "cell_a/vla", "cell_a/left/driver", "ur_driver: joints: left")
    message = DiagnosticArray(status=[DiagnosticStatus(name=name) for name in names])
    message.header.frame_id = "base"
    found = own(message, namespace)
    assert ([status.name for status in found.status] if found else []) == kept
    assert found is None or found.header == message.header
