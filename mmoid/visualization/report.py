"""The report of a data set: one HTML page that contains its figures, and the figures as PNG files next to it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

import numpy as np

from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import Statistics, head_to_tail
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import Progress, no_progress
from mmoid.visualization import figures

PAPER = 'Peng et al., "Large-Scale Object Detection in the Wild from Imbalanced Multi-Labels" (arXiv 2005.08455)'
TABLE_ROWS = 30
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }}
img {{ width: 100%; }}
table {{ border-collapse: collapse; font-size: .9rem; margin: 1rem 0; }}
th, td {{ padding: .2rem .7rem; border-bottom: 1px solid #d0d0d0; text-align: left; }}
.number {{ text-align: right; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def write_report(
    out: str | Path,
    store: AnnotationStore,
    statistics: Statistics,
    *,
    confusion: Confusion | None = None,
    confusion_source: str = 'predictions',
    progress: Progress = no_progress,
) -> Path:
    """Writes ``index.html`` and the figures, each atomically; other files in the folder are kept.

    Args:
        out: Folder, created if needed.
        store: The annotations.
        statistics: Of the store.
        confusion: What a model predicts on the objects; None leaves that section out.
        confusion_source: Predictions and thresholds, in words.
        progress: Callback, see :data:`Progress`.

    Returns:
        Path of the page.
    """
    out, names = Path(out), store.class_names
    drawn = {
        'imbalance': figures.draw_imbalance(statistics.imbalance),
        'label_pairs': figures.draw_label_pairs(statistics.level.concurrence, names),
        'leaf_absence': figures.draw_leaf_absence(statistics.leaf_absence, names),
    }
    if confusion is not None:
        drawn['confusion'] = figures.draw_confusion(confusion, names)
    images = {}
    for done, (name, figure) in enumerate(drawn.items()):
        progress('drawing', done, len(drawn))
        images[name] = _image(figures.save(figure, out / f'{name}.png'))
    progress('drawing', len(drawn), len(drawn))
    about = _paragraph(
        f'Made from the store {store.path} by tools/analysis_tools/report_openimages.py. Boxes of one image with '
        f'IoU >= {statistics.level.iou_threshold:g} are one object with several labels; group-of boxes are not '
        f'objects. Figure numbers refer to {PAPER}.'
    )
    parts = [
        about,
        _table(('what', 'value'), headlines(store, statistics, confusion)),
        _imbalance(store, statistics, images['imbalance']),
        _label_pairs(store, statistics, images['label_pairs']),
        _label_sets(statistics),
        _leaf_absence(store, statistics, images['leaf_absence']),
        '' if confusion is None else _confusion(store, confusion, confusion_source, images['confusion']),
    ]
    with atomic_write(out / 'index.html') as temporary:
        title = escape(f'Open Images data set: {store.path.name}')
        temporary.write_text(PAGE.format(title=title, body='\n'.join(parts)), encoding='utf-8')
    return out / 'index.html'


def headlines(
    store: AnnotationStore, statistics: Statistics, confusion: Confusion | None = None
) -> list[tuple[str, str]]:
    """The main numbers of a data set, as (what, value) texts."""
    images, expanded = statistics.imbalance.images, statistics.imbalance.expanded_images
    level, sizes = statistics.level, statistics.label_set_sizes
    parents = statistics.leaf_absence
    present = np.flatnonzero(images)
    by_count = present[np.argsort(-images[present], kind='stable')]
    extremes = [f'{images[k]:,} ({store.class_names[k]})' for k in by_count[[0, -1]]] if len(present) else ['none'] * 2
    known, groups = (store.is_group_of >= 0).sum(), (store.is_group_of == 1).sum()
    pairs = f'{level.label_pairs:,}'
    for i, j, together in level.concurrence.top_pairs(1):
        pairs += f', most frequent {store.class_names[i]} and {store.class_names[j]} ({together:,})'
    rows = [
        ('images', f'{store.num_images:,}'),
        ('boxes', f'{store.num_boxes:,}, {store.num_boxes / max(1, store.num_images):.1f} per image'),
        ('classes', f'{store.num_classes:,}, {len(present):,} with boxes'),
        ('images of the most frequent class', extremes[0]),
        ('images of the rarest class with any', extremes[1]),
        ('imbalance, most frequent over rarest', f'{head_to_tail(images):,.0f} to 1'),
        ('imbalance, counting for ancestors', f'{head_to_tail(expanded):,.0f} to 1'),
        ('objects with several labels', _share(sizes.annotated[2:].sum(), sizes.annotated.sum())),
        ('boxes that share an object', f'{level.boxes:,}, in {level.pairs:,} pairs'),
        ('pairs of classes on one object', pairs),
        ('labels of an object, with ancestors', f'{_mean(sizes.expanded):.2f} on average'),
        ('parent labels without a finer one', _share(parents.without_leaf.sum(), parents.objects.sum())),
        ('group-of boxes', f'{_share(groups, known)}; {store.num_boxes - known:,} unknown' if known else 'unknown'),
    ]
    if confusion is not None:
        found = _share(confusion.predicted.trace(), confusion.objects.sum())
        rows.append(('labels that the model finds on their object', found))
    return rows


def _imbalance(store: AnnotationStore, statistics: Statistics, image: str) -> str:
    counts = statistics.imbalance
    order = np.argsort(-counts.images, kind='stable')
    columns = (counts.boxes, counts.images, counts.expanded_images)
    rows = [(store.class_names[k], store.label_names[k], *(int(column[k]) for column in columns)) for k in order]
    header = ('class', 'MID', 'boxes', 'images', 'images, with descendants')
    text = _paragraph(
        'How many images have each class, on a logarithmic scale. A model that gets images at random sees the frequent '
        'classes often and the rare ones hardly ever. This is why there are class-aware and soft-balance sampling. An '
        'image of a class also counts for the ancestors of the class.'
    )
    table = f'<details><summary>All classes</summary>{_table(header, rows)}</details>'
    return f'<h2>Label imbalance (Fig. 2)</h2>{text}{image}{table}'


def _label_pairs(store: AnnotationStore, statistics: Statistics, image: str) -> str:
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
    text = _paragraph(
        'Pairs of classes that annotators gave to the same object. The concurrent rate r_ij is the share of the '
        'objects labelled i that also have the label j; it is not symmetric. With softmax the two labels suppress each '
        'other. The concurrent softmax reduces this to 1 - r_ij.'
    )
    pairs = _table(('class i', 'class j', 'objects with both', 'r_ij', 'r_ji'), top)
    text_below = _paragraph('The numbers depend on the IoU from which two boxes are one object:')
    by_iou = _table(('IoU', 'pairs of boxes', 'boxes in them', 'of all boxes', 'pairs of classes'), thresholds)
    return f'<h2>Several labels on one object (Fig. 3a)</h2>{text}{image}{pairs}{text_below}{by_iou}'


def _label_sets(statistics: Statistics) -> str:
    sizes = statistics.label_set_sizes
    columns = zip_longest(sizes.annotated.tolist(), sizes.expanded.tolist(), fillvalue=0)
    rows = [(f'{k}', *counts) for k, counts in enumerate(columns) if any(counts)]
    text = _paragraph(
        'Objects by the number of their labels: as annotated, and after every label adds its ancestors in the class '
        'hierarchy (every Apple is a Fruit), as the challenge does with annotations and expects of predictions.'
    )
    table = _table(('labels', 'objects as annotated', 'with ancestors'), rows)
    return f'<h2>Labels of one object</h2>{text}{table}'


def _leaf_absence(store: AnnotationStore, statistics: Statistics, image: str) -> str:
    absence = statistics.leaf_absence
    order = np.argsort(-absence.objects, kind='stable')[:TABLE_ROWS]
    rows = [
        (store.class_names[absence.label[k]], int(absence.objects[k]), int(absence.without_leaf[k]), absence.share[k])
        for k in order
    ]
    text = _paragraph(
        'Of the objects of a class that has descendants (labelled with the class or a descendant), the share without a '
        'label of a descendant. Most of these objects are of some descendant, but the annotations do not say which. A '
        'model that names it gets a false positive.'
    )
    table = _table(('class', 'objects', 'without a finer label', 'share'), rows)
    return f'<h2>Parents without a finer label (Fig. 3b)</h2>{text}{image}{table}'


def _confusion(store: AnnotationStore, confusion: Confusion, source: str, image: str) -> str:
    names, rates = store.class_names, confusion.rates
    rows = [(names[i], names[j], objects, float(rates[i, j])) for i, j, objects in confusion.top_pairs(TABLE_ROWS)]
    text = _paragraph(
        f'From {source}. The share of the objects labelled i on which the model also or instead predicts j, where j is '
        'neither a label of the object nor an ancestor of one. Each detection is assigned to one object, if possible '
        'to one whose labels support it.'
    )
    table = _table(('annotated', 'predicted', 'objects', 'share of the annotated'), rows)
    return f'<h2>What a model confuses (Fig. 3a, from predictions)</h2>{text}{image}{table}'


def _mean(histogram: np.ndarray) -> float:
    return float(np.arange(len(histogram)) @ histogram / max(1, histogram.sum()))


def _share(part: int, whole: int) -> str:
    return f'{part:,} of {whole:,} ({part / max(1, whole):.2%})'


def _paragraph(text: str) -> str:
    return f'<p>{escape(text)}</p>\n'


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode('ascii')
    return f'<img src="data:image/png;base64,{data}" alt="{escape(path.stem)}">\n'


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; floats are shares, shown as percentages."""
    head = ''.join(f'<th>{escape(name)}</th>' for name in header)
    body = ''.join(f'<tr>{"".join(map(_cell, row))}</tr>\n' for row in rows)
    return f'<table>\n<tr>{head}</tr>\n{body}</table>\n'


def _cell(value: object) -> str:
    if not isinstance(value, (int, float)):
        return f'<td>{escape(str(value))}</td>'
    text = f'{value:.1%}' if isinstance(value, float) else f'{value:,}'
    return f'<td class="number">{text}</td>'
