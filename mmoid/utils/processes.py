"""Worker processes that do not outlive their parent."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """Initializer of a pool's workers: ends the worker when its parent is killed.

    Without it, the workers of a killed process wait for their next task forever.
    """
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
