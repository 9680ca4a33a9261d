"""What the recorder says of each episode: that its file is open, and whether it became durable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlt_msgs.msg import RecorderStatus
from rlt_teleop.waiting import News


@dataclass(frozen=True)
class Verdict:
    """How the recording of an episode went."""

    durable: bool
    message: str


class Recordings:
    """The recorder's answers, and the waits for them.

    news: told by whoever calls :meth:`hear`; wakes the waits.
    expected: a recorder is running; without one every file counts as open and none as durable.
    timeout_s: for each wait, wall time.
    verdicts: by episode id.
    """

    def __init__(self, news: News, expected: bool, timeout_s: float) -> None:
        self.expected, self.timeout_s = expected, timeout_s
        self.verdicts: dict[int, Verdict] = {}
        self._news = news
        self._opened_episode = 0

    def hear(self, message: RecorderStatus) -> None:
        """Keep what a status says."""
        if message.durable:
            self.verdicts[message.episode_id] = Verdict(True, f"written to {message.path}")
        elif message.error:
            self.verdicts[message.episode_id] = Verdict(False, f"not recorded: {message.error}")
        self._opened_episode = max(self._opened_episode, message.episode_id)

    def opened(self, episode_id: int) -> bool:
        """Whether the episode may begin as far as its file is concerned."""
        return not self.expected or self._opened_episode >= episode_id

    async def until_open(self, episode_id: int, wanted: Callable[[], bool]) -> str:
        """Wait until the episode's file is open, or is not `wanted` any more. Returns "" or what went wrong."""
        if await self._news.until(lambda: self.opened(episode_id) or not wanted(), self.timeout_s):
            return ""
        return (
            f"no recorder opened a file within {self.timeout_s:g} s: start the recorder, or set the manager's "
            "parameter record to false"
        )

    async def verdict(self, episode_id: int) -> Verdict:
        """Wait for the recorder's verdict on an ended episode."""
        if not self.expected:
            return Verdict(False, "recording is off")
        if await self._news.until(lambda: episode_id in self.verdicts, self.timeout_s):
            return self.verdicts[episode_id]
        late = Verdict(
            False,
            f"the recorder did not confirm within {self.timeout_s:g} s: the label is not confirmed; check the recorder",
        )
        return self.verdicts.setdefault(episode_id, late)
