"""Reading checkpoints in tests."""

from pathlib import Path
from typing import Any

import torch

from mmoid.engine import allow_checkpoint_globals


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint, in the restricted way.

    The names are allowed anew each time: the onedl fork takes back, after each of its own loads, those that it allowed.
    """
    allow_checkpoint_globals()
    return torch.load(path, weights_only=True)
