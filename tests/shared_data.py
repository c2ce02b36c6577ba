"""Real data that lies beside a developer's checkout; tests that need it skip where it is not."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'


def open_images(path: str) -> Path:
    """A file or folder of the Open Images sample; skips the test where it is not there."""
    found = SHARED / 'openimages' / path
    if not found.exists():
        pytest.skip(f'needs {found}')
    return found
