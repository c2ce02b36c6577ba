"""Predictions at full size: a submission of the challenge's 100,000 test images, and ensembles of three models.

    python tools/benchmarks/bench_predictions.py                     # 10 min, 5 GB of disk
    python tools/benchmarks/bench_predictions.py --images 5000 --fused-images 100

300 detections an image. Half of them lie about a dozen objects, which the models share, so that there is something to
fuse. The plain loop calls ensemble-boxes once for each image, with arrays, in one process. *Start* is a run of two
images: processes, imports, and for `nms` what ensemble-boxes compiles in each of them. The rates do not count it.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path
from typing import Any

import measure
import numpy as np

PER_IMAGE = 300
NUM_CLASSES = 500
CLASSES_PER_IMAGE = 40
MODELS = 3
METHODS = ('nms', 'soft_nms', 'nmw', 'wbf')
WORKERS = (1, 2)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=100_000, help='of the submission (default: %(default)s)')
    parser.add_argument('--fused-images', type=int, default=1000, help='of the ensembles (default: %(default)s)')
    parser.add_argument('--folder', type=Path, help='where the generated files go; deleted at the end if not given')
    out = Path('work_dirs/benchmarks/predictions.json')
    parser.add_argument('--out', type=Path, default=out, help='the figures, as JSON')
    return parser.parse_args()


def write_sets(folder: str, num_images: int, models: int, barrier: Any) -> dict[str, Any]:
    """Generates predictions of some models on the same images: ``folder/0``, ``folder/1``, ..."""
    from mmoid.openimages.predictions.prediction_store import write_predictions

    rng = np.random.default_rng(0)
    present = rng.random((num_images, NUM_CLASSES)).argpartition(CLASSES_PER_IMAGE, axis=1)[:, :CLASSES_PER_IMAGE]
    low = rng.uniform(0, 0.7, (num_images, 12, 2))
    objects = np.concatenate([low, low + rng.uniform(0.05, 0.3, low.shape)], axis=2)
    of_object = rng.integers(0, CLASSES_PER_IMAGE, (num_images, 12))
    image = np.arange(num_images)[:, None]
    for model in range(models):
        which = rng.integers(0, 12, (num_images, PER_IMAGE))
        other = rng.integers(0, CLASSES_PER_IMAGE, which.shape)
        place = np.where(rng.random(which.shape) < 0.5, of_object[image, which], other)
        box = objects[image, which] + rng.normal(0, 0.03, (num_images, PER_IMAGE, 4))
        corner = box[..., :2].clip(0, 0.98)
        box = np.concatenate([corner, np.maximum(box[..., 2:], corner + 0.01)], axis=2)
        score = np.sort(0.01 + 0.98 * rng.beta(0.5, 4, which.shape), axis=1)[:, ::-1]
        names = [f'/m/{k:06x}' for k in range(NUM_CLASSES)]
        write_predictions(
            Path(folder) / str(model),
            image_ids=[f'{k:016x}' for k in range(num_images)],
            detections_per_image=np.full(num_images, PER_IMAGE),
            label=present[image, place].reshape(-1),
            score=score.reshape(-1),
            box=box.clip(0, 1).reshape(-1, 4),
            label_names=names,
            class_names=names,
        )
    return {}


def submission(folder: str, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.predictions.prediction_store import PredictionStore
    from mmoid.openimages.predictions.submission import write_submission

    path = Path(folder) / 'submission.csv'
    with PeakMemory() as memory:
        seconds, counts = measure.stopwatch(lambda: write_submission(path, PredictionStore(f'{folder}/0')))
    size = path.stat().st_size / 1e6
    return {'seconds': seconds, 'mb': size, 'detections': counts['detections'], 'peak_mib': memory.peak}


def reading(folder: str, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.predictions.csv_files import read_predictions

    with PeakMemory() as memory:
        seconds, table = measure.stopwatch(lambda: read_predictions(f'{folder}/submission.csv'))
    return {'seconds': seconds, 'detections': len(table.label), 'peak_mib': memory.peak}


def plain_loop(folder: str, method: str, barrier: Any) -> dict[str, Any]:
    import ensemble_boxes

    from mmoid.openimages.predictions.prediction_store import PredictionStore

    calls = {'nmw': ensemble_boxes.non_maximum_weighted, 'wbf': ensemble_boxes.weighted_boxes_fusion}
    call = calls.get(method) or getattr(ensemble_boxes, method)
    stores = [PredictionStore(f'{folder}/{model}') for model in range(MODELS)]

    def fuse(image: int) -> None:
        rows = slice(image * PER_IMAGE, (image + 1) * PER_IMAGE)
        call(*([getattr(store, name)[rows] for store in stores] for name in ('box', 'score', 'label')), iou_thr=0.55)

    fuse(0)  # compiles
    images = stores[0].num_images
    seconds, _ = measure.stopwatch(lambda: [fuse(image) for image in range(images)])
    return {'seconds': seconds, 'images_per_second': images / seconds}


def ensemble(folder: str, method: str, workers: int, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.predictions.ensemble import match_sets, run_ensemble
    from mmoid.openimages.predictions.fusion import Fusion
    from mmoid.openimages.predictions.prediction_store import PredictionStore

    sets = match_sets([PredictionStore(f'{folder}/{model}') for model in range(MODELS)])
    out = Path(folder) / f'{method}-{workers}'
    work = lambda: run_ensemble(sets, Fusion(method=method), out, num_workers=workers, overwrite=True)  # noqa: E731
    seconds, counts = measure.stopwatch(work)
    return {'seconds': seconds, 'images': counts['images'], 'detections': counts['detections fused']}


class PeakMemory:
    """Greatest private memory of this process within a ``with`` block, MiB, looked at every 50 ms."""

    def __enter__(self) -> PeakMemory:
        self.peak, self._end = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            self.peak = max(self.peak, measure.memory_of_this_process()['private'])


def run(folder: Path, num_images: int, fused_images: int) -> dict[str, Any]:
    large, small = str(folder / 'large'), str(folder / 'small')
    measure.in_fresh_process(write_sets, large, num_images, 1)
    figures: dict[str, Any] = {
        'submission': measure.in_fresh_process(submission, large),
        'reading': measure.in_fresh_process(reading, large),
    }
    measure.in_fresh_process(write_sets, small, fused_images, MODELS)
    few = str(folder / 'few')
    measure.in_fresh_process(write_sets, few, max(WORKERS), MODELS)
    for method in METHODS:
        figures[method] = {'plain loop': measure.in_fresh_process(plain_loop, small, method)}
        for workers in WORKERS:
            name = f'{workers} worker{"s" if workers > 1 else ""}'
            start = measure.in_fresh_process(ensemble, few, method, workers)
            whole = measure.in_fresh_process(ensemble, small, method, workers)
            rate = (whole['images'] - start['images']) / (whole['seconds'] - start['seconds'])
            figures[method][name] = {**whole, 'start_seconds': start['seconds'], 'images_per_second': rate}
    return figures


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = run(Path(folder), args.images, args.fused_images)
    title = f'{args.images:,} images x {PER_IMAGE} detections'
    rows = [
        (what, f'{one["seconds"]:.1f} s', f'{one["peak_mib"]:,.0f} MiB')
        for what, one in (('written', figures['submission']), ('read', figures['reading']))
    ]
    measure.show(f'Submission, {title}, {figures["submission"]["mb"]:,.0f} MB', ('', 'time', 'peak memory'), rows)
    columns = list(figures['wbf'])
    rows = [
        (
            method,
            *(f'{figures[method][name]["images_per_second"]:.1f}' for name in columns),
            f'{figures[method][columns[-1]]["start_seconds"]:.1f} s',
        )
        for method in METHODS
    ]
    title = f'Ensemble of {MODELS} models x {PER_IMAGE} detections, {args.fused_images:,} images: images a second'
    measure.show(title, ('', *columns, 'start'), rows)
    settings = {'images': args.images, 'fused_images': args.fused_images}
    measure.write_json(args.out, {'machine': measure.machine(), **settings, **figures})
    print(args.out)


if __name__ == '__main__':
    main()
