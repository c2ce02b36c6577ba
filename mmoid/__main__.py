"""The command ``mmoid``: runs the tools of the package by short names."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

from mmoid import __version__

TOOLS = Path(__file__).parent / '.mim/tools'
COMMANDS = {
    'download': 'misc/download_openimages.py',
    'download-images': 'misc/download_images.py',
    'prepare': 'dataset_converters/prepare_openimages.py',
    'import-coco': 'dataset_converters/import_coco.py',
    'import-yolo': 'dataset_converters/import_yolo.py',
    'import-voc': 'dataset_converters/import_voc.py',
    'import-parquet': 'dataset_converters/import_parquet.py',
    'export-coco': 'dataset_converters/export_coco.py',
    'mini': 'dataset_converters/make_mini_openimages.py',
    'synthetic': 'dataset_converters/make_synthetic_openimages.py',
    'report': 'analysis_tools/report_openimages.py',
    'rates': 'analysis_tools/concurrent_rates.py',
    'plan-sampling': 'analysis_tools/plan_sampling.py',
    'plan-training': 'analysis_tools/plan_training.py',
    'browse': 'analysis_tools/browse_dataset.py',
    'train': 'train.py',
    'test': 'test.py',
    'predict': 'predict.py',
    'evaluate': 'analysis_tools/evaluate_predictions.py',
    'show': 'analysis_tools/show_predictions.py',
    'compare': 'analysis_tools/compare_predictions.py',
    'plot-ap': 'analysis_tools/plot_class_ap.py',
    'submission': 'misc/make_submission.py',
    'ensemble': 'misc/ensemble.py',
    'convert': 'misc/convert_checkpoint.py',
    'check': 'misc/check_env.py',
}


def usage() -> str:
    """The commands with the first line of each tool's docstring."""
    lines = [f'mmoid {__version__}', 'usage: mmoid COMMAND [options of the tool]; mmoid COMMAND --help', '']
    for name, script in COMMANDS.items():
        doc = ast.get_docstring(ast.parse((TOOLS / script).read_text())) or ''
        lines.append(f'  {name:17}{doc.splitlines()[0]}')
    return '\n'.join([*lines, '', f'recipes: {TOOLS.parent / "configs"}'])


def main() -> None:
    """Replaces this process by the tool."""
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('-h', '--help', '--version'):
        print(__version__ if name == '--version' else usage())
    elif name in COMMANDS:
        os.execv(sys.executable, [sys.executable, str(TOOLS / COMMANDS[name]), *sys.argv[2:]])
    else:
        sys.exit(f'error: unknown command {name!r}; mmoid --help lists the commands')


if __name__ == '__main__':
    main()
