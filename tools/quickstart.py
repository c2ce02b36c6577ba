"""The whole way on a generated world: data, two-stage training, test, pictures (after tools/setup_env.sh).

Everything goes to data/synthetic and work_dirs/quickstart. A step that is done is not done again; a training that was
interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

import mmoid
from mmoid.engine.schedule.stages import Stage, parse_stages
from mmoid.openimages.metric.average_precision import count_positives
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.environment import installed_stack
from mmoid.visualization import draw_annotations, draw_predictions, draw_training, save

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/synthetic/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_synthetic.py'
DATA = Path('data/synthetic')
WORK = Path('work_dirs/quickstart')
WORLD = ('--num-train', '1200', '--num-classes', '24', '--imbalance', '100', '--confusable-pairs', '2')
console = Console()


def tool(name: str, *arguments: object) -> list[str]:
    return [sys.executable, f'tools/{name}.py', *map(str, arguments)]


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def make_data() -> None:
    run(*tool('dataset_converters/make_synthetic_openimages', '--out', DATA, *WORLD))


def prepare() -> None:
    for split in ('train', 'validation'):
        files = DATA / 'annotations'
        run(*tool(
            'dataset_converters/prepare_openimages', '--out', DATA / split, '--overwrite',
            '--boxes', files / f'{split}-detection-bbox.csv',
            '--labels', files / f'{split}-detection-human-imagelabels.csv',
            '--classes', files / 'classes-description.csv', '--hierarchy', files / 'label-hierarchy.json',
            '--images', DATA / 'images' / split,
        ))  # fmt: skip
    run(*tool('analysis_tools/concurrent_rates', DATA / 'train', '--out', DATA / 'concurrent_rates.npz'))


def processes() -> int:
    """Two; on a machine with one GPU a single one, which nccl could not share."""
    return min(2, torch.cuda.device_count()) if torch.cuda.is_available() else 2


def train() -> None:
    count = processes()
    batch = ('--cfg-options', 'train_dataloader.batch_size=8') if count == 1 else ()
    resume = ('--resume',) if (WORK / 'last_checkpoint').exists() else ()
    run('bash', 'tools/dist_train.sh', CONFIG, str(count), '--work-dir', str(WORK), *resume, *batch)


def last_checkpoint() -> Path:
    return WORK / f'epoch_{stages()[-1].stop}.pth'


def test() -> None:
    command = ('bash', 'tools/dist_test.sh', CONFIG, str(last_checkpoint()), str(processes()))
    run(*command, '--work-dir', str(WORK / 'test'), '--out', str(WORK / 'predictions'))


def stages() -> tuple[Stage, ...]:
    (hook,) = Config.fromfile(CONFIG, import_custom_modules=False).custom_hooks
    return parse_stages(hook.stages)


def scalars(folder: Path) -> list[dict]:
    """Lines that mmengine logged, of all runs (a resumed training has several), oldest first."""
    files = sorted(folder.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def draw() -> None:
    lines = scalars(WORK)
    validated = {line['step']: line['openimages/mAP'] for line in lines if 'openimages/mAP' in line}
    training = [line for line in lines if 'loss' in line]
    first_step = {line['epoch']: line['step'] for line in reversed(training)}
    epoch_length = first_step[2] - first_step[1]
    save(
        draw_training(
            list(validated), list(validated.values()),
            [line['step'] / epoch_length for line in training],
            [line['loss'] for line in training], [line['lr'] for line in training],
            [(stage.name, stage.start, stage.stop) for stage in stages()],
        ),
        WORK / 'pictures' / 'training.png',
    )  # fmt: skip
    save(draw_annotations(AnnotationStore(DATA / 'train'), range(12)), WORK / 'pictures' / 'ground_truth.png')
    store, predictions = AnnotationStore(DATA / 'validation'), PredictionStore(WORK / 'predictions')
    save(draw_predictions(store, predictions, range(12)), WORK / 'pictures' / 'predictions.png')


STEPS: dict[str, tuple[Callable[[], None], Callable[[], Path]]] = {
    # What a step does, and the last file that it leaves.
    'make data': (make_data, lambda: DATA / 'metadata.json'),
    'prepare': (prepare, lambda: DATA / 'concurrent_rates.npz'),
    'train': (train, last_checkpoint),
    'test': (test, lambda: WORK / 'predictions'),
    'draw': (draw, lambda: WORK / 'pictures' / 'predictions.png'),
}


def do_once(name: str, done: dict[str, bool], seconds: dict[str, float]) -> None:
    """Does a step unless it is done and its result still there; adds up the time of interrupted tries."""
    work, result = STEPS[name]
    if done.get(name) and result().exists():
        console.print(f'[bold]{name}[/]: done already, in {seconds[name]:.0f} s')
        return
    console.rule(f'[bold]{name}')
    start = time.monotonic()
    try:
        work()
        done[name] = True
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start
        write_json(WORK / 'steps.json', {'done': done, 'seconds': seconds})


def write_json(path: Path, value: dict) -> None:
    temporary = path.with_suffix('.writing')
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def protocol(num_images: int) -> str:
    store = AnnotationStore(DATA / 'validation')
    metric = mmoid.OpenImagesChallengeMetric(str(store.path))
    metric.dataset_meta = dict(classes=store.class_names, label_names=store.label_names)
    positives = count_positives(metric.ground_truth)
    return metric.describe(num_images, int((positives > 0).sum()))


def summarise(seconds: dict[str, float]) -> dict:
    validated = {line['step']: line['openimages/mAP'] for line in scalars(WORK) if 'openimages/mAP' in line}
    results = sorted((WORK / 'test').glob('*/*.json'))
    spent = {name: round(seconds[name], 1) for name in STEPS}
    return {
        'mAP': {stage.name: validated[stage.stop] for stage in stages()},
        'test_mAP': json.loads(results[-1].read_text())['openimages/mAP'],
        'protocol': protocol(AnnotationStore(DATA / 'validation').num_images),
        'seconds': {**spent, 'total': round(sum(spent.values()), 1)},
        'config': CONFIG,
        'checkpoint': str(last_checkpoint()),
        'pictures': sorted(str(path) for path in (WORK / 'pictures').glob('*.png')),
        'versions': {
            'mmoid': mmoid.__version__,
            'python': platform.python_version(),
            'torch': torch.__version__,
            **installed_stack(),
        },
    }


def show(summary: dict) -> None:
    table = Table('stage', 'epochs', 'sampler', 'mAP', title='Quickstart')
    for stage in stages():
        sampler = (stage.sampler or {}).get('type', '')
        table.add_row(stage.name, f'{stage.start + 1}-{stage.stop}', sampler, f'{summary["mAP"][stage.name]:.3f}')
    console.print(table)
    console.print(f'Tested: mAP {summary["test_mAP"]:.3f} ({summary["protocol"]})')
    console.print(f'Time: {summary["seconds"]["total"] / 60:.1f} minutes, {summary["seconds"]}')
    for path in summary['pictures']:
        console.print(f'Picture: {path}')
    console.print(f'Checkpoint: {summary["checkpoint"]}   Summary: {WORK / "summary.json"}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--fresh', action='store_true', help='throw the earlier run away first')
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    file = WORK / 'steps.json'
    steps = json.loads(file.read_text()) if file.exists() else {'done': {}, 'seconds': {}}
    try:
        for name in STEPS:
            do_once(name, steps['done'], steps['seconds'])
    except subprocess.CalledProcessError as error:
        sys.exit(f'error: the step failed with code {error.returncode}: {" ".join(map(str, error.cmd))}\n'
                 'See above; run the quickstart again to go on from here.')  # fmt: skip
    summary = summarise(steps['seconds'])
    write_json(WORK / 'summary.json', summary)
    show(summary)


if __name__ == '__main__':
    main()
