"""The report of a data set: one HTML page that contains its figures, and the figures as PNG files next to it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from string import Template

import numpy as np
from matplotlib.figure import Figure

from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import Statistics, head_to_tail
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.visualization import figures

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>$title</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
img { width: 100%; }
table { border-collapse: collapse; font-size: .9rem; margin: 1rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #d0d0d0; text-align: left; }
.number { text-align: right; }
</style>
<h1>$title</h1>
<p>Made from the store $store. Boxes of one image with IoU &gt;= $iou are one object with several labels; group-of boxes
are not objects. Figures as in "Large-Scale Object Detection in the Wild from Imbalanced Multi-Labels", CVPR 2020.</p>
$headlines
<h2>Label imbalance (Fig. 2)</h2>
<p>Images with each class. With images at random, a model sees frequent classes often and rare ones hardly ever, hence
class-aware and soft-balance sampling. An image of a class also counts for the ancestors of the class.</p>
$imbalance
<details><summary>All classes</summary>$classes</details>
<h2>Several labels on one object (Fig. 3a)</h2>
<p>Pairs of classes given to the same object. The concurrent rate r_ij is the share of the objects labelled i that also
have the label j. With softmax the two labels suppress each other; the concurrent softmax reduces this to 1 - r_ij.</p>
$label_pairs
<p>The numbers depend on the IoU from which two boxes are one object:</p>
$thresholds
<h2>Labels of one object</h2>
<p>Objects by the number of their labels: as annotated, and after every label adds its ancestors in the class hierarchy
(every Apple is a Fruit), as the challenge does with annotations and expects of predictions.</p>
$sizes
<h2>Parents without a finer label (Fig. 3b)</h2>
<p>Of the objects of a class that has descendants, the share without a label of a descendant. Most of them are of some
descendant, but the annotations do not say which. A model that names it gets a false positive.</p>
$leaf_absence
""")
CONFUSION = Template("""<h2>What a model confuses (Fig. 3a, from predictions)</h2>
<p>From $source. The share of the objects labelled i on which the model predicts j, where j is neither a label of the
object nor an ancestor of one. Each detection is assigned to one object, if possible to one whose labels support it.</p>
$image
""")


def write_report(
    out: str | Path,
    store: AnnotationStore,
    statistics: Statistics,
    *,
    confusion: Confusion | None = None,
    confusion_source: str = 'predictions',
) -> Path:
    """Writes ``index.html`` and the figures, each atomically; other files in the folder are kept.

    ``statistics`` are those of the store. ``confusion`` is what a model predicts on its objects, and None leaves that
    section out; ``confusion_source`` names the predictions and thresholds, in words. Returns the path of the page.
    """
    out, names, level = Path(out), store.class_names, statistics.level
    images, expanded_images = store.class_image_counts(False), store.class_image_counts()
    columns = (column.tolist() for column in (store.class_box_counts, images, expanded_images))
    classes = sorted(zip(names, store.label_names, *columns), key=lambda row: -row[3])
    by_iou = [
        (f'{at.iou_threshold:g}', at.pairs, at.boxes, f'{at.boxes / max(1, store.num_boxes):.1%}', at.label_pairs)
        for at in statistics.compared
    ]
    sizes = (statistics.label_set_sizes.tolist(), statistics.expanded_sizes.tolist())
    by_size = enumerate(zip_longest(*sizes, fillvalue=0))
    page = PAGE.substitute(
        title=escape(f'Open Images data set: {store.path.name}'),
        store=escape(str(store.path)),
        iou=f'{level.iou_threshold:g}',
        headlines=_table('what, value', headlines(store, statistics, confusion)),
        imbalance=_image(figures.draw_imbalance(images, expanded_images), out / 'imbalance.png'),
        classes=_table('class, MID, boxes, images, images with descendants', classes),
        label_pairs=_image(figures.draw_label_pairs(level.concurrence, names), out / 'label_pairs.png'),
        thresholds=_table('IoU, pairs of boxes, boxes in them, of all boxes, pairs of classes', by_iou),
        sizes=_table('labels, objects as annotated, with ancestors', [(str(k), *n) for k, n in by_size if any(n)]),
        leaf_absence=_image(figures.draw_leaf_absence(statistics.leaf_absence, names), out / 'leaf_absence.png'),
    )
    if confusion is not None:
        image = _image(figures.draw_confusion(confusion, names), out / 'confusion.png')
        page += CONFUSION.substitute(source=escape(confusion_source), image=image)
    with atomic_write(out / 'index.html') as temporary:
        temporary.write_text(page, encoding='utf-8')
    return out / 'index.html'


def headlines(
    store: AnnotationStore, statistics: Statistics, confusion: Confusion | None = None
) -> list[tuple[str, str]]:
    """The main numbers of a data set, as (what, value) texts."""
    images, names, level = store.class_image_counts(False), store.class_names, statistics.level
    sizes, expanded, parents = statistics.label_set_sizes, statistics.expanded_sizes, statistics.leaf_absence
    order = np.argsort(-images, kind='stable')[: np.count_nonzero(images)]
    most, least = [f'{images[k]:,} ({names[k]})' for k in order[[0, -1]]] if len(order) else ['none'] * 2
    known, groups = (store.is_group_of >= 0).sum(), (store.is_group_of == 1).sum()
    pairs = f'{level.label_pairs:,}'
    for i, j, together in level.concurrence.top_pairs(1):
        pairs += f', most frequent {names[i]} and {names[j]} ({together:,})'
    mean_labels = np.arange(len(expanded)) @ expanded / max(1, expanded.sum())
    rows = [
        ('images', f'{store.num_images:,}'),
        ('boxes', f'{store.num_boxes:,}, {store.num_boxes / max(1, store.num_images):.1f} per image'),
        ('classes', f'{store.num_classes:,}, {len(order):,} with boxes'),
        ('images of the most frequent class', most),
        ('images of the rarest class with any', least),
        ('imbalance, most frequent over rarest', f'{head_to_tail(images):,.0f} to 1'),
        ('imbalance, counting for ancestors', f'{head_to_tail(store.class_image_counts()):,.0f} to 1'),
        ('objects with several labels', _share(sizes[2:].sum(), sizes.sum())),
        ('boxes that share an object', f'{level.boxes:,}, in {level.pairs:,} pairs'),
        ('pairs of classes on one object', pairs),
        ('labels of an object, with ancestors', f'{mean_labels:.2f} on average'),
        ('parent labels without a finer one', _share(parents.without_leaf.sum(), parents.objects.sum())),
        ('classes verified in an image, of all', _share(statistics.verified, store.num_images * store.num_classes)),
        ('group-of boxes', f'{_share(groups, known)}; {store.num_boxes - known:,} unknown' if known else 'unknown'),
    ]
    if confusion is not None:
        found = _share(confusion.predicted.trace(), confusion.objects.sum())
        rows.append(('labels that the model finds on their object', found))
    return rows


def _share(part: int, whole: int) -> str:
    return f'{part:,} of {whole:,} ({part / max(1, whole):.2%})'


def _image(figure: Figure, path: Path) -> str:
    data = base64.b64encode(figures.save(figure, path).read_bytes()).decode('ascii')
    return f'<img src="data:image/png;base64,{data}" alt="{path.stem}">'


def _table(header: str, rows: Iterable[Sequence[str | int]]) -> str:
    head = ''.join(f'<th>{name}</th>' for name in header.split(', '))
    lines = [f'<table>\n<tr>{head}</tr>']
    for row in rows:
        cells = (f'<td>{escape(v)}</td>' if isinstance(v, str) else f'<td class="number">{v:,}</td>' for v in row)
        lines.append(f'<tr>{"".join(cells)}</tr>')
    return '\n'.join([*lines, '</table>'])
