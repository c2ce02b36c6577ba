"""The report of a data set: one HTML page with its figures inside, and the figures as PNG files beside it."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import Statistics, head_to_tail
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import Progress, no_progress
from mmoid.visualization import statistics_figures as figures
from mmoid.visualization.figure import save
from mmoid.visualization.page import folded, image, paragraph, section, table, write_page

PAPER = 'Peng et al., "Large-Scale Object Detection in the Wild from Imbalanced Multi-Labels" (arXiv 2005.08455)'
TABLE_ROWS = 30


def write_report(
    out: str | Path,
    store: AnnotationStore,
    statistics: Statistics,
    *,
    confusion: Confusion | None = None,
    confusion_source: str = 'predictions',
    coco: np.ndarray | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Writes ``index.html`` and the figures, each atomically; other files there are left alone.

    Args:
        out: Folder, made if it is not there.
        store: What was measured.
        statistics: Of the store.
        confusion: What a model says of the objects; without it that section is left out.
        confusion_source: Which predictions and thresholds these were, in words.
        coco: (K,) images per class of COCO, to show beside the store's.
        progress: Callback, see :data:`Progress`.

    Returns:
        The page's path.
    """
    out, names = Path(out), store.class_names
    drawn = {
        'imbalance': figures.draw_imbalance(statistics.imbalance, coco),
        'label_pairs': figures.draw_label_pairs(statistics.level.concurrence, names),
        'label_set_sizes': figures.draw_label_set_sizes(statistics.label_set_sizes),
        'leaf_absence': figures.draw_leaf_absence(statistics.leaf_absence, names),
        'group_of': figures.draw_group_of(statistics.group_of, names),
        'box_sizes': figures.draw_box_sizes(statistics.box_sizes),
        'boxes_per_image': figures.draw_boxes_per_image(statistics.boxes_per_image),
    }
    if confusion is not None:
        drawn['confusion'] = figures.draw_confusion(confusion, names)
    paths = _save_all(out, drawn, progress)
    parts = [
        paragraph(
            f'Made from the store {store.path} by tools/analysis_tools/report_openimages.py. Boxes of one image with '
            f'IoU >= {statistics.level.iou_threshold:g} are one object with several labels; group-of boxes are not '
            f'objects. Figure numbers refer to {PAPER}.'
        ),
        table(('what', 'value'), headlines(store, statistics, confusion)),
        _imbalance(store, statistics, paths),
        _label_pairs(store, statistics, paths),
        _label_sets(statistics, paths),
        _leaf_absence(store, statistics, paths),
    ]
    if confusion is not None:
        parts.append(_confusion(store, confusion, confusion_source, paths))
    parts += [_group_of(store, statistics, paths), _sizes(statistics, paths), _sources(store)]
    return write_page(out / 'index.html', f'Open Images data set: {store.path.name}', ''.join(parts))


def headlines(
    store: AnnotationStore, statistics: Statistics, confusion: Confusion | None = None
) -> list[tuple[str, str]]:
    """The main figures of a data set, as (what, value) texts."""
    images, expanded = statistics.imbalance.images, statistics.imbalance.expanded_images
    level, sizes, flags = statistics.level, statistics.label_set_sizes, statistics.group_of
    objects = int(sizes.annotated.sum())
    several = int(sizes.annotated[2:].sum())
    parents = statistics.leaf_absence
    known, unknown = int((flags.single + flags.group).sum()), int(flags.unknown.sum())
    rows = [
        ('images', f'{store.num_images:,}'),
        ('boxes', f'{store.num_boxes:,}, {store.num_boxes / max(1, store.num_images):.1f} an image'),
        ('classes', f'{store.num_classes:,}, {np.count_nonzero(images):,} with boxes'),
        ('images of the most frequent class', _extreme(store, images, most=True)),
        ('images of the rarest class with any', _extreme(store, images, most=False)),
        ('imbalance, most frequent over rarest', f'{head_to_tail(images):,.0f} to 1'),
        ('imbalance, counting for ancestors', f'{head_to_tail(expanded):,.0f} to 1'),
        ('objects with several labels', f'{several:,} of {objects:,} ({several / max(1, objects):.2%})'),
        ('boxes that share an object', f'{level.boxes:,}, in {level.pairs:,} pairs'),
        ('pairs of classes on one object', f'{level.label_pairs:,}{_most_frequent(store, statistics)}'),
        ('labels of an object, with ancestors', f'{_mean(sizes.expanded):.2f} on average'),
        ('parent labels without a finer one', _share(parents.without_leaf.sum(), parents.objects.sum())),
        ('group-of boxes', f'{_share(flags.group.sum(), known)}; {unknown:,} unknown' if known else 'unknown'),
    ]
    if confusion is not None:
        found = _share(confusion.predicted.trace(), confusion.objects.sum())
        rows.append(('labels that the model finds on their object', found))
    return rows


def _save_all(out: Path, drawn: dict[str, Figure], progress: Progress) -> dict[str, Path]:
    paths = {}
    for done, (name, figure) in enumerate(drawn.items()):
        progress('drawing', done, len(drawn))
        paths[name] = save(figure, out / f'{name}.png')
    progress('drawing', len(drawn), len(drawn))
    return paths


def _imbalance(store: AnnotationStore, statistics: Statistics, paths: dict[str, Path]) -> str:
    counts, flags = statistics.imbalance, statistics.group_of
    rows = [
        (store.class_names[i], store.label_names[i], int(counts.boxes[i]), int(counts.images[i]),
         int(counts.expanded_images[i]), int(flags.group[i]), int(flags.unknown[i]))
        for i in np.argsort(-counts.images, kind='stable')
    ]  # fmt: skip
    header = ('class', 'MID', 'boxes', 'images', 'images, with descendants', 'group-of boxes', 'group-of unknown')
    return section(
        'Label imbalance (Fig. 2)',
        paragraph(
            'How many images hold each class, most frequent class first; the scale is logarithmic. Drawing images at '
            'random shows a model the frequent classes over and over and the rare ones hardly ever: the reason for '
            'class-aware and soft-balance sampling. An image of a class is also one of its ancestors.'
        ),
        image(paths['imbalance'], 'Images of each class, most frequent first'),
        folded(f'All {store.num_classes:,} classes', table(header, rows)),
    )


def _label_pairs(store: AnnotationStore, statistics: Statistics, paths: dict[str, Path]) -> str:
    level, names = statistics.level, store.class_names
    rates = level.concurrence.rates
    top = [
        (names[i], names[j], together, float(rates[i, j]), float(rates[j, i]))
        for i, j, together in level.concurrence.top_pairs(TABLE_ROWS)
    ]
    thresholds = [
        (f'{other.iou_threshold:g}', other.pairs, other.boxes, other.boxes / max(1, store.num_boxes), other.label_pairs)
        for other in statistics.compared
    ]
    return section(
        'Several labels on one object (Fig. 3a)',
        paragraph(
            'Pairs of classes that annotators gave to the same object. The concurrent rate r_ij is the share of the '
            'objects labelled i that also carry j; it is not symmetric. An ordinary softmax would make the two labels '
            'suppress each other; the concurrent softmax does so only to the extent 1 - r_ij.'
        ),
        image(paths['label_pairs'], 'Most frequent pairs of labels on one object'),
        table(('class i', 'class j', 'objects with both', 'r_ij', 'r_ji'), top),
        paragraph('How many there are depends on the overlap from which two boxes are taken as one object:'),
        table(('IoU', 'pairs of boxes', 'boxes in them', 'of all boxes', 'pairs of classes'), thresholds),
    )


def _label_sets(statistics: Statistics, paths: dict[str, Path]) -> str:
    sizes = statistics.label_set_sizes
    counts = np.zeros((2, max(len(sizes.annotated), len(sizes.expanded))), dtype=np.int64)
    counts[0, : len(sizes.annotated)] = sizes.annotated
    counts[1, : len(sizes.expanded)] = sizes.expanded
    rows = [(f'{k}', int(counts[0, k]), int(counts[1, k])) for k in np.flatnonzero(counts.any(axis=0))]
    return section(
        'Labels of one object',
        paragraph(
            'Objects by the number of their labels: as annotated, and after every label brings its ancestors in the '
            'class hierarchy (every Apple is a Fruit), as the challenge expects it of annotations and predictions.'
        ),
        image(paths['label_set_sizes'], 'Objects by number of labels'),
        table(('labels', 'objects as annotated', 'with ancestors'), rows),
    )


def _leaf_absence(store: AnnotationStore, statistics: Statistics, paths: dict[str, Path]) -> str:
    absence = statistics.leaf_absence
    rows = [
        (store.class_names[absence.label[k]], int(absence.objects[k]), int(absence.without_leaf[k]),
         float(absence.share[k]))
        for k in np.argsort(-absence.objects, kind='stable')[:TABLE_ROWS]
    ]  # fmt: skip
    return section(
        'Parents without a finer label (Fig. 3b)',
        paragraph(
            'Of the objects of a class that has descendants (labelled with it or with one of them), the share that '
            'carries no label of a descendant. Most of these are one of the finer things, and nobody said which: a '
            'model that names it is counted wrong.'
        ),
        image(paths['leaf_absence'], 'Share of the objects of parent classes without a finer label'),
        table(('class', 'objects', 'without a finer label', 'share'), rows),
    )


def _confusion(store: AnnotationStore, confusion: Confusion, source: str, paths: dict[str, Path]) -> str:
    names, rates = store.class_names, confusion.rates
    rows = [
        (names[i], names[j], objects, float(rates[i, j])) for i, j, objects in confusion.top_pairs(TABLE_ROWS)
    ]  # fmt: skip
    return section(
        'What a model confuses (Fig. 3a, from predictions)',
        paragraph(
            f'From {source}. The share of the objects labelled i on which the model also or instead predicts j, where '
            'j is neither among the labels of the object nor an ancestor of one. A detection speaks of one object '
            'only, of one that bears it out if there is any.'
        ),
        image(paths['confusion'], 'Most frequent confusions'),
        table(('annotated', 'predicted', 'objects', 'share of the annotated'), rows),
    )


def _group_of(store: AnnotationStore, statistics: Statistics, paths: dict[str, Path]) -> str:
    flags = statistics.group_of
    rows = [
        ('single objects', int(flags.single.sum()), float(flags.single.sum() / max(1, store.num_boxes))),
        ('group-of', int(flags.group.sum()), float(flags.group.sum() / max(1, store.num_boxes))),
        ('unknown', int(flags.unknown.sum()), float(flags.unknown.sum() / max(1, store.num_boxes))),
    ]
    return section(
        'Group-of boxes',
        paragraph(
            'One box around more than five instances that hide or touch each other. Some files do not say whether a '
            'box is one; those boxes are counted apart, and taken as single objects elsewhere on this page.'
        ),
        table(('box', 'boxes', 'share'), rows),
        image(paths['group_of'], 'Classes with the most group-of boxes'),
    )


def _sizes(statistics: Statistics, paths: dict[str, Path]) -> str:
    counts = statistics.boxes_per_image
    return section(
        'Sizes and numbers of boxes',
        paragraph(
            "Left: the area of a box as a share of its image. Right: COCO's small (below 32 x 32 pixels), medium and "
            'large (96 x 96 and above), in pixels of the images as the store records them. Without group-of boxes.'
        ),
        image(paths['box_sizes'], 'Boxes by area'),
        paragraph(f'Boxes in one image: {_mean(counts):.1f} on average, at most {len(counts) - 1:,}.'),
        image(paths['boxes_per_image'], 'Images by number of boxes'),
    )


def _sources(store: AnnotationStore) -> str:
    rows = [
        (source['name'], int(source['bytes']), _date(source['modified_ns']), source['sha256'][:16])
        for source in store.metadata.get('sources', ())
    ]
    return section(
        'Sources',
        paragraph(
            'The files that the store was made from, as tools/dataset_converters/prepare_openimages.py found them.'
        ),
        table(('file', 'bytes', 'last changed (UTC)', 'SHA-256 begins'), rows),
    )


def _date(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc).date().isoformat()


def _extreme(store: AnnotationStore, counts: np.ndarray, most: bool) -> str:
    present = np.flatnonzero(counts)
    if not len(present):
        return 'none'
    label = present[np.argmax(counts[present]) if most else np.argmin(counts[present])]
    return f'{counts[label]:,} ({store.class_names[label]})'


def _most_frequent(store: AnnotationStore, statistics: Statistics) -> str:
    texts = [
        f', most frequent {store.class_names[i]} and {store.class_names[j]} ({together:,})'
        for i, j, together in statistics.level.concurrence.top_pairs(1)
    ]
    return ''.join(texts)


def _mean(histogram: np.ndarray) -> float:
    return float(np.arange(len(histogram)) @ histogram / max(1, histogram.sum()))


def _share(part: int, whole: int) -> str:
    return f'{part:,} of {whole:,} ({part / max(1, whole):.1%})'
