"""Compares the official metric with mmdet's OpenImagesMetric on the same arrays.

    python tools/benchmarks/bench_metric.py                                               # minutes, mostly for mmdet
    python tools/benchmarks/bench_metric.py --images 41620 --per-image 300 --without-mmdet    # as many as validation

Annotations have the challenge's proportions; 60 % of the detections lie near an annotated box. Coordinates are whole
pixels of 1024, which float32 holds exactly. mmdet's input is repaired first, outside the measured time: expanded boxes
and labels, the key `is_group_of`, and image-level labels.
"""

from pathlib import Path
from typing import Any

import full_size
import measure
import numpy as np

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.average_precision import average_precision, count_positives
from mmoid.openimages.metric.matching import GroundTruth, match_detections

PIXELS = 1024
NUM_CLASSES = full_size.NUM_CLASSES
BOXES_PER_IMAGE = full_size.NUM_BOXES / full_size.NUM_IMAGES
LABELS_PER_IMAGE = 5
GROUP_OF_SHARE = 0.05


def make_case(num_images: int, per_image: int) -> tuple[Annotations, dict[str, np.ndarray]]:
    """Annotations, and detections as arguments of ``match_detections``; the same in every process."""
    rng = np.random.default_rng(0)
    share = full_size.class_box_counts(full_size.NUM_BOXES) / full_size.NUM_BOXES
    frequent_first = rng.permutation(NUM_CLASSES)
    num_boxes, num_labels = round(BOXES_PER_IMAGE * num_images), LABELS_PER_IMAGE * num_images
    image = np.sort(rng.integers(0, num_images, num_boxes))
    label = frequent_first[rng.choice(NUM_CLASSES, num_boxes, p=share)]
    box = random_boxes(rng, num_boxes)
    annotations = Annotations(
        [str(k) for k in range(num_images)],
        ClassNames(full_size.label_names()),
        ClassHierarchy(full_size.hierarchy(), full_size.label_names()),
        image=image,
        label=label,
        box=box,
        is_group_of=rng.random(num_boxes) < GROUP_OF_SHARE,
        label_image=rng.integers(0, num_images, num_labels),
        label_class=rng.integers(0, NUM_CLASSES, num_labels),
        label_confidence=(rng.random(num_labels) < 0.3) * 1.0,
    )
    rows, expanded = annotations.hierarchy.expand_up(label)
    count = np.bincount(image[rows], minlength=num_images)
    first = np.cumsum(count) - count
    of = np.repeat(np.arange(num_images), per_image)
    near = (rng.random(len(of)) < 0.6) & (count[of] > 0)
    source = np.minimum(first[of] + (rng.random(len(of)) * count[of]).astype(int), len(rows) - 1)
    found = box[rows[source]] + rng.integers(-40, 41, (len(of), 4))
    corner = found[:, :2].clip(0, PIXELS - 1)
    found = np.concatenate([corner, np.maximum(found[:, 2:].clip(0, PIXELS), corner + 1)], axis=1)
    return annotations, dict(
        image=of,
        label=np.where(near, expanded[source], rng.integers(0, NUM_CLASSES, len(of))),
        # All different, since the order of equal scores is not defined.
        score=(1 + rng.permutation(len(of))) / (1 + len(of)),
        box=np.where(near[:, None], found, random_boxes(rng, len(of))),
    )


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) float64, whole pixels."""
    low = rng.integers(0, PIXELS * 2 // 3, (count, 2))
    return np.concatenate([low, low + rng.integers(20, PIXELS // 3, (count, 2))], axis=1).astype(np.float64)


def mmoid_metric(num_images: int, per_image: int) -> dict[str, Any]:
    annotations, found = make_case(num_images, per_image)
    before = measure.memory_of_this_process()['private']
    Path('/proc/self/clear_refs').write_text('5')  # the peak begins here

    def evaluate() -> np.ndarray:
        ground_truth = GroundTruth.build(annotations)
        return average_precision(match_detections(ground_truth, **found), count_positives(ground_truth))

    seconds, ap = measure.stopwatch(evaluate)
    peak = measure.memory_of_this_process()['peak']
    return {'ap': ap, 's': seconds, 'mAP': float(np.nanmean(ap)), 'input, MiB': before, 'peak MiB': peak}


def mmdet_metric(num_images: int, per_image: int) -> dict[str, Any]:
    import multiprocessing

    import torch
    from mmdet.evaluation.functional import eval_map
    from mmdet.evaluation.metrics import OpenImagesMetric

    # As mmdet's tools set it; eval_map starts four processes, which would import all of mmdet first.
    multiprocessing.set_start_method('fork', force=True)
    annotations, found = make_case(num_images, per_image)
    truth = GroundTruth.build(annotations)
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
    return {'ap': np.array(ap), 's': seconds, 'mAP': float(np.nanmean(ap))}


if __name__ == '__main__':
    parser = measure.command_line(__doc__, 'metric')
    parser.add_argument('--images', type=int, default=5000, help='number of images')
    parser.add_argument('--per-image', type=int, default=100, help='detections on each image')
    parser.add_argument('--without-mmdet', action='store_true', help='measure mmoid alone')
    args = parser.parse_args()
    size = (args.images, args.per_image)
    table = {'mmoid': measure.in_fresh_process(mmoid_metric, *size)}
    ap = [table['mmoid'].pop('ap')]
    if not args.without_mmdet:
        table['mmdet'] = measure.in_fresh_process(mmdet_metric, *size)
        ap.append(table['mmdet'].pop('ap'))
        # -1, so that a class with an AP in only one of the two differs by 1 at least
        table['mmdet']['AP differs by at most'] = float(np.abs(np.subtract(*np.nan_to_num(ap, nan=-1))).max())
    measure.report(args.out, {f'{size[0]:,} images x {size[1]} detections': table})
