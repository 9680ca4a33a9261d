"""Clips of ended episodes, made when somebody asks for one, kept in <run>/clips. For asyncio; blocks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from rlt_common.relabels import EPISODES
from rlt_common.run_files import inside

CLIPS = "clips"
ENCODE_S = 300.0
WAITING = 4
"""Clips that may be asked for at once; they are made one after the other."""
_LAST_WORDS = 300


class NoClip(RuntimeError):
    """A clip that cannot be had; says why."""


class Clips:
    """The clips of a run.

    Args:
        run: the run directory.
        max_mib: what all clips may take up together; those that were made first go first.
    """

    def __init__(self, run: Path | str, max_mib: float) -> None:
        self._run, self._max_bytes = Path(run), int(max_mib * 1024**2)
        self._turn = asyncio.Lock()
        self._asked: dict[int, asyncio.Task[Path]] = {}

    def find(self, episode_id: int) -> Path | None:
        """The clip of an episode, if it is there. Raises NoClip for a link out of the run directory."""
        path = self._path(CLIPS, f"{episode_id:06d}.mp4")
        return path if path.is_file() else None

    async def get(self, episode_id: int) -> Path:
        """The clip, made now if need be. Raises NoClip."""
        if found := self.find(episode_id):
            return found
        if episode_id not in self._asked:
            if len(self._asked) >= WAITING:
                raise NoClip(f"{WAITING} clips are being made already: wait for one of them")
            task = asyncio.ensure_future(self._make(episode_id))
            self._asked[episode_id] = task
            task.add_done_callback(lambda _: self._asked.pop(episode_id, None))
        return await asyncio.shield(self._asked[episode_id])

    async def close(self) -> None:
        """Give up what is being made."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, episode_id: int) -> Path:
        episode = self._path(EPISODES, f"{episode_id:06d}.mcap")
        output = self._path(CLIPS, f"{episode_id:06d}.mp4")
        if not episode.is_file():
            raise NoClip(f"episode {episode_id} has no file here")
        try:
            output.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise NoClip(f"{output.parent}: {error.strerror}") from error
        async with self._turn:
            await self._encode(episode, output)
        self._prune(output)
        return output

    async def _encode(self, episode: Path, output: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rlt_teleop.clip_encoder", str(episode), str(output)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, words = await asyncio.wait_for(process.communicate(), ENCODE_S)
        except asyncio.TimeoutError as error:
            raise NoClip(f"the clip was not ready after {ENCODE_S:g} s") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            said = words.decode(errors="replace").strip().splitlines()
            raise NoClip((said[-1] if said else f"the encoder ended with status {process.returncode}")[-_LAST_WORDS:])

    def _path(self, folder: str, name: str) -> Path:
        try:
            return inside(self._run, folder, name)
        except OSError as error:
            raise NoClip(str(error.strerror)) from error

    def _prune(self, newest: Path) -> None:
        """Delete the oldest clips that are too many."""
        with contextlib.suppress(OSError):
            found = sorted(
                ((p.stat().st_mtime, p.stat().st_size, p) for p in newest.parent.glob("*.mp4")), reverse=True
            )
            room = self._max_bytes
            for _, size, path in found:
                room -= size
                if room < 0 and path != newest:
                    path.unlink(missing_ok=True)
