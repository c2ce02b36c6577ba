"""The Open Images metric restated in plain Python, rule by rule: slow, and meant to be compared with metric-spec.md.

Order of equal scores, which the official code leaves open: as ``mmoid.openimages.metric.matching`` documents it.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from math import nan


@dataclass
class Case:
    """Annotations and predictions as rows. Images and classes are indices, a box is (xmin, ymin, xmax, ymax)."""

    num_images: int
    num_classes: int
    boxes: list[tuple[int, int, tuple, bool]] = field(default_factory=list)  # image, class, box, is group-of
    labels: list[tuple[int, int, float]] = field(default_factory=list)  # image, class, confidence
    detections: list[tuple[int, int, float, tuple]] = field(default_factory=list)  # image, class, score, box
    parents: dict[int, list[int]] | None = None  # class -> its parents; None: no hierarchy
    verified_only: bool = True
    group_of_weight: float = 1.0
    iou_threshold: float = 0.5
    max_detections: int = 10000


def ancestors(parents: dict[int, list[int]], label: int) -> set[int]:
    """The union over all paths, each ancestor once."""
    above = set(parents.get(label, ()))
    return above.union(*(ancestors(parents, parent) for parent in above))


def expand(case: Case) -> tuple[list, set]:
    """Preparation of ground truth: the expanded box rows, and the verified (image, class) pairs."""
    up = {label: sorted(ancestors(case.parents or {}, label)) for label in range(case.num_classes)}
    down = {label: [other for other in up if label in up[other]] for label in up}
    boxes = [(image, copy, box, group) for image, label, box, group in case.boxes for copy in [label, *up[label]]]
    verified = {(image, label) for image, label, _, _ in boxes}
    for image, label, confidence in case.labels:
        verified.update((image, copy) for copy in [label, *(up if confidence > 0 else down)[label]])
    return boxes, verified


def evaluate(case: Case) -> tuple[list[float], list[float]]:
    """AP (NaN: excluded) and positives of every class."""
    boxes, verified = expand(case)
    singles, groups, detections = defaultdict(list), defaultdict(list), defaultdict(list)
    positives = [0.0] * case.num_classes
    for image, label, box, group in boxes:
        (groups if group else singles)[image, label].append(box)
        positives[label] += case.group_of_weight if group else 1
    for image, label, score, box in case.detections:
        if not case.verified_only or (image, label) in verified:
            detections[image, label].append((score, box))
    pooled = [[] for _ in range(case.num_classes)]
    for image, label in sorted(detections):
        pooled[label] += match(detections[image, label], singles[image, label], groups[image, label], case)
    ap = [average_precision(rows, count) for rows, count in zip(pooled, positives)]
    return ap, positives


def match(detections: list, singles: list, groups: list, case: Case) -> list[tuple[float, float]]:
    """(score, value) of all that counts for one image and class: rules 1 to 5."""
    detections = [row for row in detections if row[1][0] < row[1][2] and row[1][1] < row[1][3]]
    detections = sorted(detections, key=lambda row: -row[0])[: case.max_detections]
    taken, true_positive = set(), [False] * len(detections)
    for i, (_, box) in enumerate(detections):
        best, overlap = first_best([iou(box, single) for single in singles])
        if overlap >= case.iou_threshold and best not in taken:
            taken.add(best)
            true_positive[i] = True
    rows, group_scores = [], {}
    for i, (score, box) in enumerate(detections):
        best, overlap = first_best([ioa(box, group) for group in groups])
        if true_positive[i] or overlap < case.iou_threshold:
            rows.append((score, float(true_positive[i])))
        else:
            group_scores[best] = max(group_scores.get(best, 0), score)
    for best in sorted(group_scores):
        if case.group_of_weight > 0 and group_scores[best] > 0:
            rows.append((group_scores[best], case.group_of_weight))
    return rows


def average_precision(rows: list[tuple[float, float]], positives: float) -> float:
    """Exact area under the monotone envelope of precision over recall."""
    if positives == 0:
        return nan
    true = zeros = 0.0
    recall, precision = [0.0], [0.0]
    for _, value in sorted(rows, key=lambda row: -row[0]):
        true += value
        zeros += value == 0
        recall.append(true / positives)
        precision.append(true / (true + zeros))
    return sum((recall[i] - recall[i - 1]) * max(precision[i:]) for i in range(1, len(recall)))


def first_best(overlaps: list[float]) -> tuple[int, float]:
    """Index and value of the greatest overlap, the first on a tie; (-1, 0) of none."""
    if not overlaps:
        return -1, 0.0
    best = overlaps.index(max(overlaps))
    return best, overlaps[best]


def iou(a: tuple, b: tuple) -> float:
    union = area(a) + area(b) - intersection(a, b)
    return intersection(a, b) / union if union > 0 else 0.0


def ioa(detection: tuple, group: tuple) -> float:
    return intersection(detection, group) / area(detection)


def intersection(a: tuple, b: tuple) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def area(box: tuple) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
