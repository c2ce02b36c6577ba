"""Real data that lies beside a developer's checkout; tests that need it skip where it is not."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'

METRIC_CASES = sorted(path.name for path in (SHARED / 'metric-cases').glob('case_*')) or ['absent']


def metric_case(name: str) -> Path:
    """Folder of an official case; skips the test where it is not there."""
    return _required(SHARED / 'metric-cases' / name)


def open_images(path: str) -> Path:
    """A file or folder of the Open Images sample; skips the test where it is not there."""
    return _required(SHARED / 'openimages' / path)


def _required(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f'needs {path}')
    return path
