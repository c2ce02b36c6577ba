"""Runs the method on a generated data set: data, training, rates of classes that are mixed up, test, figures.

    bash tools/quickstart.sh

Writes to data/synthetic and work_dirs/quickstart. Run it again to resume: finished steps are skipped, and an
interrupted training continues from its last checkpoint.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import mmoid
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.utils.command_line import tool_parser
from mmoid.utils.environment import installed_stack
from mmoid.utils.progress import print_table
from mmoid.visualization.figures import draw_training, save
from mmoid.visualization.label_sets import draw_annotations, draw_predictions

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/synthetic/faster-rcnn_r18-small_fpn_2xb4-cas-5e_synthetic.py'
STOCK = 'docs/reproduction/quickstart-stock.json'
DATA = Path('data/synthetic')
WORK = Path('work_dirs/quickstart')
FIGURES = WORK / 'figures'
EPOCHS = 5  # of the config
CHECKPOINT = WORK / f'epoch_{EPOCHS}.pth'
WORLD = ('--num-train', '1200', '--num-classes', '24', '--imbalance', '100', '--confusable-pairs', '2')
PROCESSES = min(2, torch.cuda.device_count()) or 2  # one on a machine with a single GPU: NCCL does not share a GPU
console = Console()


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def tool(name: str, *options: object) -> None:
    run(sys.executable, f'tools/{name}.py', *options)


def make_data() -> None:
    tool('dataset_converters/make_synthetic_openimages', '--out', DATA, *WORLD)


def prepare() -> None:
    files = DATA / 'annotations'
    classes = ('--classes', files / 'classes-description.csv', '--hierarchy', files / 'label-hierarchy.json')
    for split in ('train', 'validation'):
        boxes = ('--boxes', files / f'{split}-detection-bbox.csv')
        labels = ('--labels', files / f'{split}-detection-human-imagelabels.csv')
        images = ('--images', DATA / 'images' / split, '--out', DATA / split, '--overwrite')
        tool('dataset_converters/prepare_openimages', *boxes, *labels, *classes, *images)
    tool('analysis_tools/concurrent_rates', DATA / 'train', '--out', DATA / 'concurrent_rates.npz')


def train() -> None:
    batch = ('--cfg-options', 'train_dataloader.batch_size=8') if PROCESSES == 1 else ()
    resume = ('--resume',) if (WORK / 'last_checkpoint').exists() else ()
    run('bash', 'tools/dist_train.sh', CONFIG, PROCESSES, '--work-dir', WORK, *resume, *batch)


def mixed_up_rates() -> None:
    """Adds the pairs of classes that annotators mix up, by the model's scores on the training images."""
    predictions = WORK / 'train_predictions'
    if not predictions.exists():
        data = [f'{loader}.ann_file={DATA / "train"}' for loader in ('test_dataloader.dataset', 'test_evaluator')]
        run_test('--work-dir', WORK / 'train_test', '--out', predictions, '--cfg-options', *data)
    rates = ('--predictions', predictions, '--out', WORK / 'rates.npz', '--compare-iou')
    tool('analysis_tools/concurrent_rates', DATA / 'train', *rates)


def test() -> None:
    loss = 'model.roi_head.bbox_head.loss_cls'
    eq_5 = (f'{loss}.type=ConcurrentSoftmaxLoss', f'{loss}.concurrent_rates={WORK / "rates.npz"}')
    run_test('--work-dir', WORK / 'test', '--out', WORK / 'predictions', '--cfg-options', *eq_5)


def run_test(*options: object) -> None:
    run('bash', 'tools/dist_test.sh', CONFIG, CHECKPOINT, PROCESSES, *options)


def training_log() -> tuple[list[dict], dict[int, float]]:
    """Logged training lines and the mAP after each epoch, over all runs (a resumed training has several)."""
    files = sorted(WORK.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    mean_ap = {line['step']: line['openimages/mAP'] for line in lines if 'openimages/mAP' in line}
    return [line for line in lines if 'loss' in line], mean_ap


def draw() -> None:
    training, mean_ap = training_log()
    first_step = {line['epoch']: line['step'] for line in reversed(training)}
    times = [line['step'] / (first_step[2] - first_step[1]) for line in training]
    losses, lrs = ([line[name] for line in training] for name in ('loss', 'lr'))
    bands = [('class-aware', 0, EPOCHS)]
    save(draw_training(list(mean_ap), list(mean_ap.values()), times, losses, lrs, bands), FIGURES / 'training.png')
    save(draw_annotations(AnnotationStore(DATA / 'train'), range(12)), FIGURES / 'ground_truth.png')
    store, predictions = AnnotationStore(DATA / 'validation'), PredictionStore(WORK / 'predictions')
    save(draw_predictions(store, predictions, range(12)), FIGURES / 'predictions.png')


def run_steps() -> dict[str, float]:
    """Runs the steps that are not done or whose last output is gone; returns the seconds of each, retries included."""
    steps = {
        'make data': (make_data, DATA / 'metadata.json'),
        'prepare': (prepare, DATA / 'concurrent_rates.npz'),
        'train': (train, CHECKPOINT),
        'rates': (mixed_up_rates, WORK / 'rates.npz'),
        'test': (test, WORK / 'predictions'),
        'draw': (draw, FIGURES / 'predictions.png'),
    }
    record = WORK / 'steps.json'
    state = json.loads(record.read_text()) if record.exists() else {'done': {}, 'seconds': {}}
    done, seconds = state['done'], state['seconds']
    for name, (step, output) in steps.items():
        if done.get(name) and output.exists():
            console.print(f'[bold]{name}[/]: already done, took {seconds[name]:.0f} s')
            continue
        console.rule(f'[bold]{name}')
        start = time.monotonic()
        try:
            step()
            done[name] = True
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start
            write_json(record, state)
    return {name: round(seconds[name], 1) for name in steps}


def write_json(path: Path, value: dict) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1))


def summarise(seconds: dict[str, float]) -> None:
    """Writes and prints the results."""
    summary = {
        'mAP': training_log()[1][EPOCHS],
        'test_mAP': json.loads(max((WORK / 'test').glob('*/*.json')).read_text())['openimages/mAP'],
        'seconds': {**seconds, 'total': round(sum(seconds.values()), 1)},
        'figures': sorted(str(path) for path in FIGURES.glob('*.png')),
        'versions': {'mmoid': mmoid.__version__, 'torch': torch.__version__, **installed_stack()},
    }
    write_json(WORK / 'summary.json', summary)
    stock = json.loads(Path(STOCK).read_text())
    others = f'{np.mean(stock["mAP"]):.3f} (mean of {len(stock["mAP"])} seeds)'
    rows = [
        ('stock MMDetection', stock['tested_with'], others),
        ('this run', 'the same', f'{summary["mAP"]:.3f}'),
        ('this run', 'Eq. 5, with the classes that annotators mix up', f'{summary["test_mAP"]:.3f}'),
    ]
    print_table(rows, 'detector', 'tested with', 'mAP', title='Quickstart')
    noise = 'differences of two trainings below 0.02 are noise. docs/reproduction.md has more images and seeds.'
    console.print(f'{stock["images"]} images, Open Images Challenge metric: {noise}')
    steps = ', '.join(f'{name} {value:.0f} s' for name, value in seconds.items())
    console.print(f'Time: {sum(seconds.values()) / 60:.1f} minutes ({steps})')
    for path in summary['figures']:
        console.print(f'Figure: {path}')
    console.print(f'Checkpoint: {CHECKPOINT}   Summary: {WORK / "summary.json"}')
    console.print('Next: train on Open Images (README.md) or on your own data (docs/data.md)')


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('--fresh', action='store_true', help='delete the previous run first')
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        summarise(run_steps())
    except subprocess.CalledProcessError as error:
        command = ' '.join(error.cmd)
        sys.exit(f'error: exit status {error.returncode}: {command}\nSee above; run the quickstart again to resume.')
