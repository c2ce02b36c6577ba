"""docs/tour.ipynb: its code runs from top to bottom."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = json.loads((ROOT / 'docs' / 'tour.ipynb').read_text())['cells']
    code = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    assert len(code) > 5 and all(not cell.get('outputs') for cell in cells)
    code[-1] += '\nprint("mAP", figures["openimages/mAP"])'
    done = subprocess.run(
        [sys.executable, '-c', '\n'.join(code)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith('mAP 0.')
