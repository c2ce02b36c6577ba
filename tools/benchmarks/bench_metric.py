"""Compares the official metric with mmdet's OpenImagesMetric on the same arrays.

    python tools/benchmarks/bench_metric.py            # minutes, mostly for mmdet
    python tools/benchmarks/bench_metric.py --images 500 --large-images 0

Annotations have the challenge's proportions; 60 % of the detections lie near an annotated box. Coordinates are whole
pixels of 1024, which float32 holds exactly. mmdet's input is repaired first, outside the measured time: expanded boxes
and labels, the key `is_group_of`, and image-level labels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import full_size
import measure
import numpy as np

PIXELS = 1024
NUM_CLASSES = full_size.NUM_CLASSES
BOXES_PER_IMAGE = full_size.NUM_BOXES / full_size.NUM_IMAGES
LABELS_PER_IMAGE = 5
GROUP_OF_SHARE = 0.05


def hierarchy() -> Any:
    from mmoid.openimages.hierarchy import ClassHierarchy

    return ClassHierarchy(full_size.hierarchy(), full_size.label_names())


def write_case(folder: str, num_images: int, per_image: int) -> dict[str, Any]:
    """Generates annotations ``truth.npz`` and detections ``found.npz``."""
    rng = np.random.default_rng(0)
    share = full_size.class_box_counts(full_size.NUM_BOXES) / full_size.NUM_BOXES
    frequent_first = rng.permutation(NUM_CLASSES)
    num_boxes, num_labels = round(BOXES_PER_IMAGE * num_images), LABELS_PER_IMAGE * num_images
    image = np.sort(rng.integers(0, num_images, num_boxes))
    label = frequent_first[rng.choice(NUM_CLASSES, num_boxes, p=share)]
    box = random_boxes(rng, num_boxes)
    np.savez(
        Path(folder) / 'truth.npz',
        image=image,
        label=label,
        box=box,
        is_group_of=rng.random(num_boxes) < GROUP_OF_SHARE,
        label_image=rng.integers(0, num_images, num_labels),
        label_class=rng.integers(0, NUM_CLASSES, num_labels),
        label_confidence=(rng.random(num_labels) < 0.3) * 1.0,
    )
    rows, expanded = hierarchy().expand_up(label)
    count = np.bincount(image[rows], minlength=num_images)
    first = np.cumsum(count) - count
    of = np.repeat(np.arange(num_images), per_image)
    near = (rng.random(len(of)) < 0.6) & (count[of] > 0)
    source = np.minimum(first[of] + (rng.random(len(of)) * count[of]).astype(int), len(rows) - 1)
    found = box[rows[source]] + rng.integers(-40, 41, (len(of), 4))
    corner = found[:, :2].clip(0, PIXELS - 1)
    found = np.concatenate([corner, np.maximum(found[:, 2:].clip(0, PIXELS), corner + 1)], axis=1)
    np.savez(
        Path(folder) / 'found.npz',
        image=of,
        label=np.where(near, expanded[source], rng.integers(0, NUM_CLASSES, len(of))),
        # All different, since the order of equal scores is not defined.
        score=(1 + rng.permutation(len(of))) / (1 + len(of)),
        box=np.where(near[:, None], found, random_boxes(rng, len(of))),
    )
    return {'boxes': num_boxes, 'expanded_boxes': len(rows)}


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) float64, whole pixels."""
    low = rng.integers(0, PIXELS * 2 // 3, (count, 2))
    return np.concatenate([low, low + rng.integers(20, PIXELS // 3, (count, 2))], axis=1).astype(np.float64)


def load(folder: str, name: str) -> dict[str, np.ndarray]:
    with np.load(Path(folder) / f'{name}.npz') as file:
        return dict(file)


def expanded(truth: dict[str, np.ndarray], num_images: int) -> Any:
    from mmoid.openimages.classes import ClassNames
    from mmoid.openimages.metric.annotations import Annotations
    from mmoid.openimages.metric.ground_truth import GroundTruth

    image_ids = [str(k) for k in range(num_images)]
    return GroundTruth.build(Annotations(image_ids, ClassNames(full_size.label_names()), hierarchy(), **truth))


def mmoid_metric(folder: str, num_images: int) -> dict[str, Any]:
    from mmoid.openimages.metric.average_precision import average_precision, count_positives
    from mmoid.openimages.metric.matching import match_detections

    truth, found = load(folder, 'truth'), load(folder, 'found')
    before = measure.memory_of_this_process()['private']

    def evaluate() -> np.ndarray:
        ground_truth = expanded(truth, num_images)
        return average_precision(match_detections(ground_truth, **found), count_positives(ground_truth))

    seconds, ap = measure.stopwatch(evaluate)
    figures = {'seconds': seconds, 'before_mib': before, 'peak_mib': measure.memory_of_this_process()['peak']}
    return figures | {'mAP': float(np.nanmean(ap)), 'ap': ap.tolist()}


def mmdet_metric(folder: str, num_images: int) -> dict[str, Any]:
    import multiprocessing

    import torch
    from mmdet.evaluation.functional import eval_map
    from mmdet.evaluation.metrics import OpenImagesMetric

    # As mmdet's tools set it; eval_map starts four processes, which would import all of mmdet first.
    multiprocessing.set_start_method('fork', force=True)
    truth, found = expanded(load(folder, 'truth'), num_images), load(folder, 'found')
    image_of_label, verified = np.divmod(truth.verified, NUM_CLASSES)

    def rows_of_images(image: np.ndarray) -> list[np.ndarray]:
        return np.split(np.arange(len(image)), np.searchsorted(image, np.arange(1, num_images)))

    samples = []
    for boxes, detections, labels in zip(*map(rows_of_images, (truth.image, found['image'], image_of_label))):
        columns = (truth.label[boxes], truth.box[boxes], truth.is_group_of[boxes])
        instances = [
            {'bbox_label': label, 'bbox': box, 'is_group_of': group}
            for label, box, group in zip(*(column.tolist() for column in columns))
        ]
        names = {'bboxes': 'box', 'scores': 'score', 'labels': 'label'}
        predicted = {name: torch.from_numpy(found[column][detections]) for name, column in names.items()}
        samples.append({'instances': instances, 'image_level_labels': verified[labels], 'pred_instances': predicted})
    metric = OpenImagesMetric(get_supercategory=False)  # expanded above, each ancestor once
    relation = np.eye(NUM_CLASSES, dtype=bool)
    metric.dataset_meta = dict(classes=full_size.label_names(), dataset_type='oid_challenge', RELATION_MATRIX=relation)
    options = dict(iou_thr=0.5, ioa_thr=0.5, dataset='oid_challenge', logger='silent', use_group_of=True)

    def evaluate() -> list[dict]:
        for start in range(0, len(samples), 8):
            metric.process({}, samples[start : start + 8])
        annotations, predictions = zip(*metric.results)
        return eval_map(predictions, annotations, **options)[1]  # compute_metrics calls it and returns the mean only

    seconds, classes = measure.stopwatch(evaluate)
    ap = [float(one['ap']) if one['num_gts'] else np.nan for one in classes]
    return {'seconds': seconds, 'mAP': float(np.nanmean(ap)), 'ap': ap}


def main() -> None:
    parser = measure.command_line(__doc__, 'metric')
    parser.add_argument('--images', type=int, default=5000, help='of the comparison')
    parser.add_argument('--per-image', type=int, default=100, help='detections of each')
    parser.add_argument('--large-images', type=int, default=41_620, help='of a large case of mmoid alone; 0: none')
    parser.add_argument('--large-per-image', type=int, default=300, help='detections of each')
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures['case'] = measure.in_fresh_process(write_case, folder, args.images, args.per_image)
        figures['mmoid'] = measure.in_fresh_process(mmoid_metric, folder, args.images)
        figures['mmdet'] = measure.in_fresh_process(mmdet_metric, folder, args.images)
        if args.large_images:
            measure.in_fresh_process(write_case, folder, args.large_images, args.large_per_image)
            figures['large'] = measure.in_fresh_process(mmoid_metric, folder, args.large_images)
    # -1, so that a class with an AP in only one of the two differs by 1 at least
    ap = [np.nan_to_num(figures[name]['ap'], nan=-1) for name in ('mmoid', 'mmdet')]
    figures['largest_difference'] = float(np.abs(ap[0] - ap[1]).max())
    rows = [(name, f'{figures[name]["seconds"]:.2f} s', f'{figures[name]["mAP"]:.6f}') for name in ('mmoid', 'mmdet')]
    boxes = figures['case']['expanded_boxes']
    title = f'{args.images:,} images x {args.per_image} detections, {boxes:,} expanded boxes'
    measure.show(title, ('', 'time', 'mAP'), rows)
    print(f'The AP of a class differs by {figures["largest_difference"]:.2g} at most.')
    if args.large_images:
        one = figures['large']
        row = ('mmoid', f'{one["seconds"]:.1f} s', f'{one["before_mib"]:,.0f} MiB', f'{one["peak_mib"]:,.0f} MiB')
        title = f'{args.large_images:,} images x {args.large_per_image} detections'
        measure.show(title, ('', 'time', 'inputs in memory', 'peak memory'), [row])
    measure.save(args.out, **figures)


if __name__ == '__main__':
    main()
