"""Replay buffer: control steps once, encoded observations once, transitions as index views on both.

z_rl and references, which are network outputs, are kept in half precision; actions and references are in units of the
demonstrations' spread, so that this loses nothing that matters. The order of episodes decides every index: a buffer
rebuilt from the same episodes samples the same. Room for the whole capacity is asked for at once: the operating system
gives memory only as it is written, and nothing is ever copied to grow.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rlt_rl_node.agent import Batch
from rlt_rl_node.networks import Layout
from rlt_rl_node.records import EpisodeData, EpisodeKey, RecordError, Source
from rlt_rl_node.transitions import assemble


class Replay:
    """Up to `capacity` transitions of whole episodes; the oldest episodes leave first."""

    def __init__(self, layout: Layout, stride: int, gamma: float, spread: Tensor, capacity: int = 500_000) -> None:
        """`spread` (d,): the demonstrations' spread per action dimension, robot units."""
        self.layout, self.stride, self.capacity = layout, stride, capacity
        self.spread = spread
        self.discounts = gamma ** torch.arange(layout.chunk_length + 1, dtype=torch.float32)
        self._offsets = torch.arange(layout.chunk_length)
        self._token_dim = layout.token_dim if layout.use_rl_token else 0
        steps = capacity * stride
        self._actions = _Column((layout.action_dim,), torch.float32, steps)
        self._human = _Column((), torch.bool, steps)
        self._rewards = _Column((), torch.float32, steps)
        self._tokens = _Column((self._token_dim,), torch.float16, capacity)
        self._states = _Column((layout.state_dim,), torch.float32, capacity)
        self._references = _Column((layout.chunk_dim,), torch.float16, capacity)
        self._encoding = _Column((), torch.int64, capacity)
        self._next_encoding = _Column((), torch.int64, capacity)
        self._first_action = _Column((), torch.int64, capacity)
        self._length = _Column((), torch.int64, capacity)
        self._terminal = _Column((), torch.bool, capacity)
        self._per_step = (self._actions, self._human, self._rewards)
        self._per_encoding = (self._tokens, self._states, self._references)
        self._per_transition = (
            self._encoding,
            self._next_encoding,
            self._first_action,
            self._length,
            self._terminal,
        )
        self._sizes: dict[EpisodeKey, tuple[int, int, int]] = {}  # steps, encodings, transitions
        self._facts: dict[EpisodeKey, tuple[int, float]] = {}  # transitions that a human begins, sum of their returns

    def __len__(self) -> int:
        """Transitions held."""
        return self._length.size

    @property
    def stored_bytes(self) -> int:
        """What the transitions take, without the room that is reserved for more."""
        columns = (*self._per_step, *self._per_encoding, *self._per_transition)
        return sum(column.values.nbytes for column in columns)

    @property
    def episodes(self) -> tuple[EpisodeKey, ...]:
        """The episodes held, oldest first."""
        return tuple(self._sizes)

    @property
    def steps(self) -> int:
        """Control steps held."""
        return self._actions.size

    @property
    def demonstrations(self) -> int:
        """Transitions of demonstrations."""
        return sum(sizes[2] for key, sizes in self._sizes.items() if key.episode_id < 0)

    @property
    def interventions(self) -> int:
        """Transitions of practice that begin with a human's action."""
        return sum(human for key, (human, _) in self._facts.items() if key.episode_id >= 0)

    def return_mean(self, key: EpisodeKey | None = None) -> float:
        """Mean discounted return that the transitions held, or those of one episode, really had.

        What a time-out might still have earned counts 0. NaN without any transition. KeyError for an unknown episode.
        """
        if key is not None:
            return self._facts[key][1] / self._sizes[key][2]
        return sum(total for _, total in self._facts.values()) / len(self) if len(self) else math.nan

    def add(self, episode: EpisodeData) -> int:
        """Take in an episode and return its number of transitions (0: nothing is stored).

        Raises RecordError when it does not fit the layout or is here already; ValueError for a discarded one.
        """
        self._check(episode)
        table = assemble(episode, self.layout.chunk_length, self.stride)
        if not len(table):
            return 0
        step_offset, encoding_offset = self._actions.size, self._tokens.size
        rows = slice(episode.delay, episode.delay + self.layout.chunk_length)
        self._actions.extend(torch.from_numpy(episode.actions) / self.spread)
        self._human.extend(torch.from_numpy(episode.sources == Source.HUMAN))
        self._rewards.extend(torch.from_numpy(table.rewards))
        self._tokens.extend(torch.from_numpy(episode.rl_tokens)[:, : self._token_dim])
        self._states.extend(torch.from_numpy(episode.rl_states))
        self._references.extend((torch.from_numpy(episode.references[:, rows]) / self.spread).flatten(1))
        self._encoding.extend(torch.from_numpy(table.encoding) + encoding_offset)
        self._next_encoding.extend(torch.from_numpy(table.next_encoding) + encoding_offset)
        self._first_action.extend(torch.from_numpy(table.first_action) + step_offset)
        self._length.extend(torch.from_numpy(table.length))
        self._terminal.extend(torch.from_numpy(table.terminal))
        self._sizes[episode.key] = (len(episode.steps), len(episode.encoded_steps), len(table))
        human = int((episode.sources[table.first_action] == Source.HUMAN).sum())
        returns = _returns(table.rewards, float(self.discounts[1]))
        self._facts[episode.key] = (human, float(returns[table.first_action].sum()))
        while len(self) > self.capacity and len(self._sizes) > 1:
            self.remove(next(iter(self._sizes)))
        return len(table)

    def remove(self, key: EpisodeKey) -> None:
        """Take an episode out again. A corrected label is a removal followed by :meth:`add`. KeyError when unknown."""
        counts = self._sizes[key]
        starts = [0, 0, 0]
        for other, sizes in self._sizes.items():
            if other == key:
                break
            starts = [a + b for a, b in zip(starts, sizes, strict=True)]
        groups = (self._per_step, self._per_encoding, self._per_transition)
        for columns, start, count in zip(groups, starts, counts, strict=True):
            for column in columns:
                column.delete(start, count)
        later = slice(starts[2], None)
        self._first_action.values[later] -= counts[0]
        self._encoding.values[later] -= counts[1]
        self._next_encoding.values[later] -= counts[1]
        del self._sizes[key], self._facts[key]

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """`batch_size` transitions, uniformly with replacement."""
        return self.gather(torch.randint(len(self), (batch_size,), generator=generator))

    def gather(self, indices: Tensor) -> Batch:
        """The transitions at `indices` (B,)."""
        count, c, d = len(indices), self.layout.chunk_length, self.layout.action_dim
        length = self._length.take(indices)
        valid = self._offsets < length[:, None]
        rows = self._first_action.take(indices)[:, None] + torch.minimum(self._offsets, length[:, None] - 1)
        rows = rows.flatten()
        action = self._actions.take(rows).view(count, c, d)
        human = self._human.take(rows).view(count, c) & valid
        here, there = self._encoding.take(indices), self._next_encoding.take(indices)
        reference = self._references.take(here).float().view(count, c, d)
        rewards = (self._rewards.take(rows).view(count, c) * valid * self.discounts[:-1]).sum(1)
        return Batch(
            x=self._x(here),
            action=action.flatten(1),
            reference=torch.where(human[:, :, None], action, reference).flatten(1),
            valid=valid[:, :, None].expand_as(action).flatten(1).float(),
            rewards=rewards,
            bootstrap=self.discounts[length] * ~self._terminal.take(indices),
            next_x=self._x(there),
            next_reference=self._references.take(there).float(),
        )

    def states(self) -> Tensor:
        """x of every encoded observation, (M, X), for its statistics."""
        return self._x(torch.arange(self._tokens.size))

    def _x(self, index: Tensor) -> Tensor:
        x = torch.empty(len(index), self.layout.x_dim)
        x[:, : self._token_dim] = self._tokens.take(index)
        x[:, self._token_dim :] = self._states.take(index)
        return x

    def _check(self, episode: EpisodeData) -> None:
        where = str(episode.key)
        if episode.key in self._sizes:
            raise RecordError(f"{where} is in the replay already: remove it first")
        for name, got, expected in (
            ("action dimension", episode.actions.shape[1], self.layout.action_dim),
            ("RL token width", episode.rl_tokens.shape[1], self.layout.token_dim),
            ("RL state width", episode.rl_states.shape[1], self.layout.state_dim),
        ):
            if len(episode.encoded_steps) and got != expected:
                raise RecordError(f"{where}: {name} is {got}, the agent's is {expected}")


def _returns(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """(N,) discounted return from each control step of an episode on."""
    returns, after = np.zeros(len(rewards)), 0.0
    for step in range(len(rewards) - 1, -1, -1):
        returns[step] = after = rewards[step] + gamma * after
    return returns


class _Column:
    """Rows with room for `reserve` of them, and for a quarter more whenever that is not enough."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, reserve: int) -> None:
        self.size = 0
        self._reserve = reserve
        self._store = torch.empty((0, *shape), dtype=dtype)

    @property
    def values(self) -> Tensor:
        """(size, ...) view."""
        return self._store[: self.size]

    def take(self, index: Tensor) -> Tensor:
        """The rows at `index` (K,), copied."""
        return self._store.index_select(0, index)

    def extend(self, values: Tensor) -> None:
        end = self.size + len(values)
        if end > len(self._store):
            room = max(self._reserve, end, len(self._store) + len(self._store) // 4)
            store = torch.empty((room, *self._store.shape[1:]), dtype=self._store.dtype)
            store[: self.size] = self.values
            self._store = store
        self._store[self.size : end] = values
        self.size = end

    def delete(self, start: int, count: int) -> None:
        """Close the gap in blocks of `count`, which never overlap."""
        for at in range(start, self.size - count, count):
            block = self._store[at + count : min(at + 2 * count, self.size)]
            self._store[at : at + len(block)] = block
        self.size -= count
