"""Random numbers as a function of a place in the training, so that a checkpoint need not keep generator states.

A state could not be kept exactly anyway: the generators of loader workers are ahead of the training by what they have
loaded in advance, and differ with the number of workers.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def place_seed(*place: object) -> int:
    """64 bits for a place, such as ``('iteration', seed, rank, iteration)``; another place has others."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest(), 'little')


def seed_item(*place: object) -> None:
    """Seeds what a data pipeline draws from: ``random``, numpy's and torch's global CPU generators.

    torch's generator is seeded by itself: ``torch.manual_seed`` also tells every device, which takes twenty times as
    long as all the rest where CUDA is not in use, as in a loader's worker.
    """
    seed = place_seed(*place)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_process(*place: object) -> None:
    """Like :func:`seed_item`, and the generators of all devices."""
    seed_item(*place)
    torch.manual_seed(place_seed(*place))
