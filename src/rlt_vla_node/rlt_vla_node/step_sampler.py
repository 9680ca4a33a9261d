"""Which samples each step of each process takes: a function of seed, step and rank alone.

So a run that is resumed at a step sees what it would have seen, and needs no state of its own for it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler


class StepSampler(Sampler[list[int]]):
    """Batches of one process, one per micro-batch, from step `first` to `last`.

    All processes together take the samples in the order of one permutation per epoch.

    Args:
        count: samples there are.
        batch: samples in a micro-batch.
        accumulate: micro-batches of a step.
        processes, rank: how many processes there are, and which this one is.
        seed: of the permutations.
        first, last: steps, `last` is not taken any more.
    """

    def __init__(
        self, count: int, batch: int, accumulate: int, processes: int, rank: int, seed: int, first: int, last: int
    ) -> None:
        self._count, self._batch, self._accumulate = count, batch, accumulate
        self._processes, self._rank, self._seed = processes, rank, seed
        self._first, self._last = first, last
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return (self._last - self._first) * self._accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(self._first * self._accumulate, self._last * self._accumulate):
            begin = (index * self._processes + self._rank) * self._batch
            yield [self._sample(place) for place in range(begin, begin + self._batch)]

    def _sample(self, place: int) -> int:
        epoch, row = divmod(place, self._count)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        return int(self._order[row])


def step_loader(samples: Dataset, sampler: StepSampler, workers: int) -> DataLoader:
    """The sampler's batches, read by so many processes (0: by this one).

    Workers start anew (spawn) and are handed the samples by pickle: to fork a process in which torch and video
    decoders have threads may hang it.
    """
    context = "spawn" if workers else None
    return DataLoader(samples, batch_sampler=sampler, num_workers=workers, multiprocessing_context=context)


def draw_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """Seed (63 bits) of the random draws of one micro-batch of one process."""
    packed = struct.pack("<QQQQ", seed, step, micro, rank)
    return int.from_bytes(hashlib.sha256(packed).digest()[:8], "little") >> 1
