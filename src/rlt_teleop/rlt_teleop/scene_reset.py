"""Calls reset_scene and waits for its answer, as long as the episode wants it."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from rlt_common import topics
from rlt_msgs.srv import ResetScene
from rlt_teleop.waiting import News


class SceneReset:
    """Client of reset_scene. `timeout_s`, wall time: for the service to appear, and again for its answer."""

    def __init__(self, node: Node, news: News, timeout_s: float, group: CallbackGroup) -> None:
        self._client = node.create_client(ResetScene, topics.SERVICE_RESET_SCENE, callback_group=group)
        self._news, self._timeout_s = news, timeout_s

    async def call(self, request: ResetScene.Request, wanted: Callable[[], bool]) -> str:
        """Returns "", also when the reset is not `wanted` any more, or what went wrong."""
        client, timeout_s = self._client, self._timeout_s
        if not await self._news.until(lambda: client.service_is_ready() or not wanted(), timeout_s):
            return f"no {topics.SERVICE_RESET_SCENE} service within {timeout_s:g} s: is the simulator running?"
        if not wanted():
            return ""
        future = client.call_async(request)
        future.add_done_callback(lambda _: self._news.tell())
        if not await self._news.until(lambda: future.done() or not wanted(), timeout_s):
            client.remove_pending_request(future)
            return f"{topics.SERVICE_RESET_SCENE} did not answer within {timeout_s:g} s"
        if future.done() and not future.result().done:
            return f"{topics.SERVICE_RESET_SCENE}: {future.result().message}"
        return ""
