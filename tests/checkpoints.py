"""Reading checkpoints in tests."""

from pathlib import Path
from typing import Any

import torch

from mmoid.engine.resume.checkpoints import allow_checkpoint_globals


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint with ``weights_only=True``."""
    allow_checkpoint_globals()
    return torch.load(path, weights_only=True)
