"""Faults of a camera and of the disk: a relay that a camera's images pass through, and a small disk for the run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from rlt_bringup.graph import NodeSpec
from rlt_common import topics

RELAYED = "relayed/image_raw"
HOUR_S = 3600
FROZEN_IMAGES = 5
FAULTS = ("stalled", "frozen", "clock jump", "duplicate and out of order")


class CameraRelay(Node):
    """Passes one camera's images on, or does to them what `fault` says (one of FAULTS; empty: nothing).

    A last byte that counts up stands for a sensor's noise: the simulator repeats its image while nothing moves.
    """

    def __init__(self, topic: str) -> None:
        super().__init__("camera_relay")
        self.fault = ""
        self._images = 0
        self._held: bytes | None = None
        self._last: Image | None = None
        self._publisher = self.create_publisher(Image, RELAYED, topics.QOS_CAMERA_LOCKSTEP)
        self.create_subscription(Image, topic, self._on_image, topics.QOS_CAMERA_LOCKSTEP, raw=True)

    def _on_image(self, cdr: bytes) -> None:
        if self.fault == "stalled":
            return
        self._images += 1
        cdr = cdr[:-1] + bytes([self._images % 256])
        if self.fault == "duplicate and out of order":
            self._publisher.publish(cdr)
            self._publisher.publish(self._held or cdr)
            self._publisher.publish(cdr)
            self._held = cdr
            return
        if not self.fault:
            self._last = None
            self._publisher.publish(cdr)
            return
        image = deserialize_message(cdr, Image)
        if self.fault == "clock jump":
            image.header.stamp.sec += HOUR_S
        else:
            self._last = self._last or image
            self._last.header.stamp = image.header.stamp
            image = self._last
        self._publisher.publish(serialize_message(image))


def behind_relay(nodes: list[NodeSpec], folder: Path) -> tuple[list[NodeSpec], str]:
    """(the nodes, with camera_ingest taking its first camera from the relay and watching for frozen ones; the topic
    that the relay listens to)."""
    changed = []
    for node in nodes:
        if node.name == "camera_ingest":
            source = Path(node.parameters["robot"])
            values = yaml.safe_load(source.read_text(encoding="utf-8"))
            topic = values["cameras"][0]["topic"]
            values["cameras"][0]["topic"] = RELAYED
            values["kinematics"] = str(source.parent / values["kinematics"])
            file = folder / "relayed_robot.yaml"
            file.write_text(yaml.safe_dump(values), encoding="utf-8")
            own = {**node.parameters, "robot": str(file), "frozen_images": FROZEN_IMAGES}
            node = NodeSpec(node.package, node.executable, node.name, own, node.respawn)
        changed.append(node)
    return changed, topic


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in `folder`, in memory. Takes root. Raises CalledProcessError otherwise."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "rlt", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write until the disk is full. Returns the file to delete."""
    path = folder / "ballast"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return path


def remount(folder: Path, mode: str) -> None:
    """Make the file system "ro" or "rw". Open files keep a writable one from becoming read-only by itself."""
    subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=True, capture_output=True)
