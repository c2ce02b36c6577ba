"""Run the grids of the paper's Tables 1-4 on a generated world, cell by cell, and compare the readings of detections.

    python tools/reproduce.py --table 1 --seeds 3          # resumable: run it again after a kill
    python tools/reproduce.py --table 1 --seeds 3 --render # the table, from the stored results
    python tools/reproduce.py --table 1 --choose-lr        # first: each method's learning rate, on a seed of its own

A cell is one training and the tests of its checkpoint. Two cells run side by side, each in one process, and take 3 to
5 minutes on two idle cores. Results go to docs/reproduction/grid.json, everything else to work_dirs/reproduce.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pprint
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from mmcv.ops import nms
from mmengine.structures import InstanceData

from mmoid import OpenImagesChallengeMetric
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.concurrent_rates import load_rates, save_rates
from mmoid.openimages.store.annotation_store import AnnotationStore

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / 'work_dirs/reproduce'
RESULTS = ROOT / 'docs/reproduction/grid.json'
LR_RESULTS = ROOT / 'docs/reproduction/learning_rates.json'
BASE = ROOT / 'configs/synthetic/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_synthetic.py'

# The world's knobs, from the real files (shared data README; annotations/*-challenge-bbox.csv), set before any method
# was run on it:
#   confusable pairs  115 of 443 leaves (paper, Fig. 3a): 0.26 pairs per leaf, 16 of 64
#   multi-label       16.4 % (validation) and 2.1 % (training) of the boxes share an object: 0.2 of the leaves in pairs
#   parent-only       36 % (training) and 27 % (validation) of the boxes have a class with children: 0.3
#   imbalance         30,000 in the paper (images), 101,328 in boxes of the full training set: 1,000, or the rarest
#                     classes of a set of this size have no image at all
#   objects           7.7 (training) and 6.7 (validation) boxes per image: 7
WORLD = {
    'num-train': 2400,
    'num-validation': 1000,
    'num-classes': 64,
    'imbalance': 1000,
    'multi-label-rate': 0.2,
    'confusable-pairs': 16,
    'parent-only-rate': 0.3,
    'objects-per-image': 7,
    'image-size': 96,
}
BATCH = 8
EPOCHS = 3  # stands for the paper's 7
LEARNING_RATES = (0.01, 0.02, 0.04)
LR_SEED = 1000  # of the learning rate's choice only; the seeds of results start at 0
ACTIVATIONS = ('SoftmaxLoss', 'ConcurrentSoftmaxLoss')
SURE = 0.15  # a rate above it, annotated or of confusions, becomes 1 in 'pairs'


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
        name: As in the table.
        paper: The paper's mAP in percent, or None.
        loss: Type of ``loss_cls``.
        ancestors: Whether label sets hold the ancestors of the annotated labels.
        rates: ``annotations``, or ``pairs``: 1 where they or the confusions of the start's model are sure.
        hierarchy_rate: r_ij of a class and its ancestor.
        balance: λ of the sampler, or None for the images in sequence.
        effective_number: β of class weights, or None.
        epochs: Of this training.
        start: Row of the same table whose checkpoint it starts from, or None for a random initialisation.
    """

    name: str
    paper: float | None
    loss: str = 'SoftmaxLoss'
    ancestors: bool = False
    rates: str = 'annotations'
    hierarchy_rate: float = 1.0
    balance: float | None = 1.0
    effective_number: float | None = None
    epochs: int = EPOCHS
    start: str | None = None


CONCURRENT = 'ConcurrentSoftmaxLoss'
LONG = round(EPOCHS * 20 / 7)  # the paper's 20 epochs
TABLES: dict[int, tuple[Method, ...]] = {
    1: (
        Method('focal, class-aware', 50.18, 'LabelSetFocalLoss', ancestors=True),
        Method('BCE, class-aware', 54.29, 'LabelSetBCELoss', ancestors=True),
        Method('Co-BCE, class-aware', 55.74, 'CoBCELoss'),
        Method('dist-CE, class-aware', 55.90, 'DistCELoss'),
        Method('softmax', 38.16, balance=None),
        Method('concurrent softmax', 39.14, CONCURRENT, balance=None),
        Method('softmax, class-aware', 55.45),
        Method('concurrent softmax, class-aware', 56.58, CONCURRENT),
        Method('concurrent softmax, class-aware, label sets with ancestors', None, CONCURRENT, ancestors=True),
        Method('concurrent softmax, class-aware, hierarchy_rate 0', None, CONCURRENT, hierarchy_rate=0.0),
    ),
    3: (
        Method('non-balance', 38.16, balance=None),
        Method('effective number', 45.72, balance=None, effective_number=0.999),
        *(
            Method(f'soft balance {balance}', paper, balance=balance)
            for balance, paper in ((0.3, 50.69), (0.5, 56.19), (0.7, 57.04), (1.0, 55.45), (1.5, 52.41))
        ),
    ),
    4: (
        Method('non-balance, 7', 56.06, balance=None),
        Method('non-balance, 20', 60.70, balance=None, epochs=LONG),
        Method('class-aware, 7', 64.68),
        Method('class-aware, 14', 62.85, epochs=2 * EPOCHS),
        Method('class-aware, 20+7', 65.92, start='non-balance, 20'),
        Method('soft balance, 20+7', 67.09, balance=0.7, start='non-balance, 20'),
        Method('concurrent softmax, soft balance, 20+7', 68.23, CONCURRENT, balance=0.7, start='non-balance, 20'),
        Method(
            'the same, rates of pairs',
            None,
            CONCURRENT,
            rates='pairs',
            balance=0.7,
            start='non-balance, 20',
        ),
    ),
}
TABLES[2] = tuple(method for method in TABLES[1] if method.name.endswith('softmax, class-aware'))  # two tests of each


@dataclass(frozen=True)
class Cell:
    """A method with a seed and a learning rate; ``key`` names its results."""

    method: Method
    seed: int
    lr: float

    @property
    def key(self) -> str:
        settings = {**asdict(self.method), 'paper': None, 'name': None, 'seed': self.seed, 'lr': self.lr}
        return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()

    @property
    def folder(self) -> Path:
        return WORK / 'cells' / self.key


def run(*command: object) -> None:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True)
    if done.returncode:
        raise RuntimeError(
            f'{" ".join(map(str, command))}\n{done.stdout.decode()[-2000:]}{done.stderr.decode()[-4000:]}'
        )


def make_world() -> Path:
    """Generate and prepare the data set; does nothing where it is there."""
    data = WORK / 'world'
    options = [f'--{name}={value}' for name, value in WORLD.items()]
    run('tools/dataset_converters/make_synthetic_openimages.py', '--out', data, *options)
    for split in ('train', 'validation'):
        if not (data / split).exists():
            files = data / 'annotations'
            run(
                'tools/dataset_converters/prepare_openimages.py',
                '--out',
                data / split,
                '--boxes',
                files / f'{split}-detection-bbox.csv',
                '--labels',
                files / f'{split}-detection-human-imagelabels.csv',
                '--classes',
                files / 'classes-description.csv',
                '--hierarchy',
                files / 'label-hierarchy.json',
                '--images',
                data / 'images' / split,
            )
    if not (data / 'annotations.npz').exists():
        run('tools/analysis_tools/concurrent_rates.py', data / 'train', '--out', data / 'annotations.npz')
    return data


def config(cell: Cell, data: Path, loss: str, split: str, rates: Path | None, start: Path | None) -> dict:
    """A child config of the quickstart's, as a dict."""
    method, train = cell.method, str(data / 'train')
    num_classes = AnnotationStore(train).num_classes
    classifier: dict = dict(type=loss, num_classes=num_classes, hierarchy=train, concurrent_rates=rates and str(rates))
    if loss == CONCURRENT:
        classifier['hierarchy_rate'] = method.hierarchy_rate
    if method.effective_number:
        classifier['class_weight'] = dict(store=train, beta=method.effective_number)
    # An explicit matrix of no ancestors leaves the label sets as annotated.
    hierarchy = train if method.ancestors else np.zeros((num_classes, num_classes), dtype=bool).tolist()
    sampler = dict(type='DefaultSampler', shuffle=True)
    if method.balance is not None:
        sampler = dict(type='SoftBalanceClassAwareSampler', balance=method.balance)
    iterations = method.epochs * AnnotationStore(train).num_images / BATCH
    drops = [round(iterations * part) for part in (4 / 7, 6 / 7)]
    schedule = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=min(100, drops[0])),
        dict(type='MultiStepLR', milestones=drops, gamma=0.1, by_epoch=False),
    ]
    stage = dict(name=method.name, epochs=method.epochs, sampler=sampler, param_scheduler=schedule)
    tested = dict(ann_file=str(data / split))
    return dict(
        _base_=[str(BASE)],
        scale=(WORLD['image-size'],) * 2,
        model=dict(
            roi_head=dict(bbox_head=dict(num_classes=num_classes, loss_cls=dict(_delete_=True, **classifier))),
            train_cfg=dict(rcnn=dict(sampler=dict(num_classes=num_classes, hierarchy=hierarchy))),
        ),
        train_dataloader=dict(batch_size=BATCH, dataset=dict(ann_file=train)),
        val_dataloader=dict(dataset=tested),
        test_dataloader=dict(dataset=tested),
        val_evaluator=dict(**tested, train_ann_file=train),
        test_evaluator=dict(**tested, train_ann_file=train),
        train_cfg=dict(max_epochs=method.epochs, val_interval=1),
        optim_wrapper=dict(optimizer=dict(lr=cell.lr)),
        custom_hooks=[dict(type='HybridSchedule', stages=[stage])],
        randomness=dict(seed=cell.seed),
        load_from=start and str(start),
    )


def write_config(path: Path, settings: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(f'{key} = {pprint.pformat(value, width=110)}' for key, value in settings.items()) + '\n')
    return path


def predict(cell: Cell, data: Path, loss: str, split: str, rates: Path, checkpoint: Path) -> PredictionStore:
    out = cell.folder / f'{split}-{loss}'
    if not out.exists():
        file = write_config(cell.folder / f'test-{split}-{loss}.py', config(cell, data, loss, split, rates, None))
        run('tools/test.py', file, checkpoint, '--work-dir', cell.folder / 'test', '--out', out)
    return PredictionStore(out)


def rates_of(cell: Cell, data: Path, start: Cell | None) -> Path:
    """Rates from the annotations; with ``pairs`` 1 where max(r_ij, min(c_ij, c_ji)) is above ``SURE``, else 0.

    c_ij are the confusions of the start's model on the training images.
    """
    annotations = data / 'annotations.npz'
    if cell.method.rates == 'annotations':
        return annotations
    assert start is not None, 'rates of confusions need a method to start from'
    out = cell.folder / 'pairs.npz'
    if not out.exists():
        predictions = predict(start, data, 'SoftmaxLoss', 'train', annotations, last_checkpoint(start))
        confused = cell.folder / 'confusions.npz'
        run(
            'tools/analysis_tools/concurrent_rates.py',
            data / 'train',
            '--out',
            confused,
            '--predictions',
            predictions.path,
            '--score',
            '0.3',
        )
        rates, names = load_rates(annotations)
        confusions, _ = load_rates(confused)
        mutual = np.minimum(confusions, confusions.T)
        save_rates(out, (np.maximum(rates, mutual) > SURE).astype(np.float32), names)
    return out


def last_checkpoint(cell: Cell) -> Path:
    return cell.folder / f'epoch_{cell.method.epochs}.pth'


def readings(data: Path, predictions: PredictionStore) -> dict[str, dict]:
    """Three readings: as predicted, with ancestors added, and with NMS per class over own and added boxes."""
    store = AnnotationStore(data / 'validation')
    image = predictions.image_of_detection()
    rows, label = store.hierarchy.expand_up(predictions.label)
    stop = np.searchsorted(image[rows], np.arange(predictions.num_images + 1))
    boxes, scores = torch.from_numpy(predictions.box[rows] + 0.0).float(), torch.from_numpy(predictions.score[rows] + 0)
    shifted = boxes + torch.from_numpy(label)[:, None] * 2.0  # boxes of different classes do not touch
    kept = [a + nms(shifted[a:b], scores[a:b], 0.5)[1].numpy() for a, b in zip(stop[:-1], stop[1:]) if a < b]
    kept = np.concatenate(kept)
    ways = {
        'as predicted': (np.arange(len(predictions.label)), predictions.label),
        'ancestors': (rows, label),
        'ancestors, NMS': (rows[kept], label[kept]),
    }
    splits, ids = (data / 'train', data / 'validation'), predictions.image_ids()
    results = {}
    for way, (rows, label) in ways.items():
        order = np.argsort(image[rows], kind='stable')
        rows, label = rows[order], label[order]
        detections = image[rows], label, predictions.score[rows], predictions.box[rows]
        results[way] = average_precision(*splits, ids, *detections)
    return results


def average_precision(
    train: Path | str,
    validation: Path | str,
    image_ids: list[str],
    image: np.ndarray,
    label: np.ndarray,
    score: np.ndarray,
    box: np.ndarray,
) -> dict:
    """The metric's figures and the AP of every class.

    Args:
        train: Store of the training split.
        validation: Store of the images evaluated.
        image_ids: N ImageIDs.
        image: (D,) index of the image of each detection, ascending.
        label: (D,) class indices.
        score: (D,).
        box: (D, 4) as fractions of the image size.
    """
    metric = OpenImagesChallengeMetric(str(validation), train_ann_file=str(train))
    store = AnnotationStore(validation)
    metric.dataset_meta = dict(classes=store.class_names, label_names=store.label_names)
    stop = np.searchsorted(image, np.arange(len(image_ids) + 1))
    with TemporaryDirectory() as folder:
        metric.outfile_prefix = f'{folder}/figures'
        for i, image_id in enumerate(image_ids):
            part = slice(stop[i], stop[i + 1])
            found = InstanceData(
                bboxes=torch.from_numpy(box[part].astype(np.float64)),
                scores=torch.from_numpy(score[part].astype(np.float64)),
                labels=torch.from_numpy(label[part].astype(np.int64)),
            )
            metric.process({}, [dict(img_id=image_id, ori_shape=(1, 1), pred_instances=found)])
        figures = metric.evaluate(len(image_ids))
        ap = json.loads(Path(f'{folder}/figures.json').read_text())['AP']
    scalars = {name.removeprefix('openimages/'): round(float(value), 5) for name, value in figures.items()}
    return {**scalars, 'AP': ap}


def run_cell(cell: Cell, start: Cell | None, data: Path) -> dict:
    """Train and test a cell; a killed training resumes."""
    began = time.monotonic()
    rates = rates_of(cell, data, start)
    checkpoint = last_checkpoint(cell)
    if not checkpoint.exists():
        settings = config(cell, data, cell.method.loss, 'validation', rates, start and last_checkpoint(start))
        file = write_config(cell.folder / 'train.py', settings)
        resume = ['--resume'] if (cell.folder / 'last_checkpoint').exists() else []
        run('tools/train.py', file, '--work-dir', cell.folder, *resume)
    own = cell.method.loss
    tests = ACTIVATIONS if own in (*ACTIVATIONS, 'DistCELoss') else (own,)
    results = {loss: readings(data, predict(cell, data, loss, 'validation', rates, checkpoint)) for loss in tests}
    return {**asdict(cell), 'results': results, 'seconds': round(time.monotonic() - began, 1)}


def run_grid(cells: list[tuple[Cell, Cell | None]], jobs: int, file: Path) -> None:
    """All cells that have no result yet; those that start from another follow it."""
    data, lock = make_world(), threading.Lock()
    stored = json.loads(file.read_text()) if file.exists() else {}

    def one(pair: tuple[Cell, Cell | None]) -> None:
        cell, start = pair
        if cell.key in stored:
            return
        result = run_cell(cell, start, data)
        with lock:
            stored[cell.key] = result
            temporary = file.with_suffix('.writing')
            temporary.write_text(json.dumps(stored, indent=1) + '\n')
            temporary.replace(file)
        print(f'{cell.method.name}, seed {cell.seed}, lr {cell.lr}: {best(result):.4f}, {result["seconds"]:.0f} s')

    for phase in (False, True):
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, [pair for pair in cells if (pair[1] is not None) == phase]))


def best(result: dict) -> float:
    """The best reading of the best activation."""
    return max(way['mAP'] for test in result['results'].values() for way in test.values())


def chosen_lr(method: Method) -> float:
    """The learning rate whose cell of ``--choose-lr`` came out best; 0.02 where that was not run."""
    stored = json.loads(LR_RESULTS.read_text()) if LR_RESULTS.exists() else {}
    tried = {cell.lr: stored.get(cell.key) for cell in (Cell(method, LR_SEED, lr) for lr in LEARNING_RATES)}
    return max((best(result), lr) for lr, result in tried.items() if result)[1] if any(tried.values()) else 0.02


def cells_of(table: int, seeds: range, choose_lr: bool) -> list[tuple[Cell, Cell | None]]:
    by_name = {method.name: method for method in TABLES[table]}
    pairs = []
    for seed in [LR_SEED] if choose_lr else seeds:
        for method in TABLES[table]:
            start = by_name.get(method.start or '')
            for lr in LEARNING_RATES if choose_lr else (chosen_lr(method),):
                first = start and Cell(start, seed, chosen_lr(start))
                pairs.append((Cell(method, seed, lr), first))
    return pairs


def render(table: int, cells: list[tuple[Cell, Cell | None]]) -> str:
    """A Markdown table: mean and standard error over the seeds beside the paper's figure."""
    stored = json.loads(RESULTS.read_text())
    lines = ['| method | paper | tested with | reading | mAP | seeds |', '| --- | ---: | --- | --- | ---: | ---: |']
    for method in TABLES[table]:
        own = [stored[cell.key] for cell, _ in cells if cell.method == method and cell.key in stored]
        for test in own[0]['results'] if own else ():
            for way in own[0]['results'][test]:
                values = 100 * np.array([result['results'][test][way]['mAP'] for result in own])
                error = f' ± {values.std(ddof=1) / len(values) ** 0.5:.2f}' if len(values) > 1 else ''
                lines.append(
                    f'| {method.name} | {method.paper or ""} | {test} | {way} | {values.mean():.2f}{error} | '
                    f'{len(values)} |'
                )
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--table', type=int, choices=sorted(TABLES), required=True, help='of the paper')
    parser.add_argument('--seeds', type=int, default=3, help='trainings of each method (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=2, help='cells side by side (default: %(default)s)')
    parser.add_argument('--choose-lr', action='store_true', help='try the learning rates on a seed of their own')
    parser.add_argument('--render', action='store_true', help='print the table from the stored results')
    args = parser.parse_args()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    cells = cells_of(args.table, range(args.seeds), args.choose_lr)
    if args.render:
        print(render(args.table, cells))
        return
    run_grid(cells, args.jobs, LR_RESULTS if args.choose_lr else RESULTS)


if __name__ == '__main__':
    main()
