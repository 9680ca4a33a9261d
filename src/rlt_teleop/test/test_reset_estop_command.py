"""The command that releases the emergency stop, against an executor's service over real DDS."""

import subprocess
import sys

from teleop_doubles import FakeExecutor

CODE = "from rlt_teleop.reset_estop_command import main; main()"


def run(namespace, *more):
    arguments = [sys.executable, "-c", CODE, *more, "--ros-args", "-r", f"__ns:={namespace}"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_releases_the_stop(make_graph):
    graph = make_graph({})
    executor = graph.add(FakeExecutor())
    executor.estop = True
    process = run(graph.namespace)
    graph.until(lambda: process.poll() is not None, "the command ends")
    assert (process.returncode, executor.estop) == (0, False), process.stderr.read()


def test_without_an_executor_it_says_so(make_graph):
    process = run(make_graph({}).namespace)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is the chunk executor running" in words


def test_an_argument_is_an_error(make_graph):
    _, words = (process := run(make_graph({}).namespace, "now")).communicate(timeout=60)
    assert process.returncode == 1
    assert "'now'" in words
