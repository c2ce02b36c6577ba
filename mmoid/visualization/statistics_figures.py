"""The statistics of a data set as figures, after Fig. 2 and 3 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mmoid.openimages.statistics.concurrent_rates import Concurrence
from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import BoxSizes, GroupOf, Imbalance, LabelSetSizes, LeafAbsence
from mmoid.visualization.figure import short_name

FIRST, SECOND, THIRD, QUIET = '#2060c0', '#e08020', '#208040', '#a0a0a0'
THOUSANDS = FuncFormatter(lambda value, _: f'{value:,.0f}')


def draw_imbalance(imbalance: Imbalance, coco: np.ndarray | None = None) -> Figure:
    """Images of each class, most frequent first, on a logarithmic scale (Fig. 2).

    Args:
        imbalance: Of the store.
        coco: (K,) images per class of another data set, to show beside it.
    """
    figure = Figure(figsize=(9, 4.5), layout='constrained')
    ax = figure.subplots()
    curves = [
        (imbalance.images, 'as annotated', FIRST, '-'),
        (imbalance.expanded_images, 'counted for ancestors too', SECOND, '-'),
    ]
    if coco is not None:
        curves.append((coco, 'COCO', QUIET, '--'))
    for counts, name, colour, style in curves:
        present = np.sort(counts[counts > 0])[::-1]
        span = f'{present[0]:,} to {present[-1]:,}' if len(present) else 'none'
        label = f'{name} ({len(present)} classes, {span})'
        ax.plot(np.arange(1, len(present) + 1), present, style, color=colour, label=label, lw=2)
    ax.set_yscale('log')
    ax.yaxis.set_major_formatter(THOUSANDS)
    ax.set_title('Images of each class', loc='left', fontsize=11)
    ax.set_xlabel('class, most frequent first')
    ax.set_ylabel('images with the class')
    ax.grid(alpha=0.3)
    ax.legend(loc='upper right')
    return figure


def draw_label_pairs(concurrence: Concurrence, class_names: Sequence[str], count: int = 20) -> Figure:
    """The most frequent pairs of labels on one object, with both rates (Fig. 3a)."""
    pairs = concurrence.top_pairs(count)
    rates = concurrence.rates
    figure, ax = _rows(len(pairs), 0.42)
    place = np.arange(len(pairs))
    ax.barh(place - 0.2, [rates[i, j] for i, j, _ in pairs], 0.38, color=FIRST, label='of the first, also the second')
    ax.barh(place + 0.2, [rates[j, i] for i, j, _ in pairs], 0.38, color=SECOND, label='of the second, also the first')
    for row, (i, j, together) in enumerate(pairs):
        _note(ax, max(rates[i, j], rates[j, i]), row, f'{together:,}')
    names = [f'{short_name(class_names[i])} · {short_name(class_names[j])}' for i, j, _ in pairs]
    if pairs:
        figure.legend(loc='outside upper right', ncols=2)
    return _finish(ax, 'Labels given to one object', names, 'share of the objects (number: objects with both)')


def draw_confusion(confusion: Confusion, class_names: Sequence[str], count: int = 20) -> Figure:
    """The labels that a model most often gives to objects annotated otherwise (Fig. 3a, by a model)."""
    pairs = confusion.top_pairs(count)
    rates = confusion.rates
    figure, ax = _rows(len(pairs), 0.3)
    ax.barh(np.arange(len(pairs)), [rates[i, j] for i, j, _ in pairs], 0.7, color=THIRD)
    for row, (i, j, objects) in enumerate(pairs):
        _note(ax, rates[i, j], row, f'{objects:,}')
    names = [f'{short_name(class_names[i])} → {short_name(class_names[j])}' for i, j, _ in pairs]
    return _finish(ax, 'Annotated → predicted', names, 'share of the objects annotated so (number: objects)')


def draw_leaf_absence(absence: LeafAbsence, class_names: Sequence[str], count: int = 25) -> Figure:
    """Share of the objects of a parent class that have no finer label (Fig. 3b), classes with most objects first."""
    most = np.argsort(-absence.objects, kind='stable')[:count]
    most = most[absence.objects[most] > 0]
    figure, ax = _rows(len(most), 0.3)
    ax.barh(np.arange(len(most)), absence.share[most], 0.7, color=FIRST)
    for row, k in enumerate(most):
        _note(ax, absence.share[k], row, f'{absence.objects[k]:,}')
    names = [short_name(class_names[label]) for label in absence.label[most]]
    title = 'Objects of parent classes without a finer label'
    return _finish(ax, title, names, "share of the class's objects (number: all its objects)")


def draw_label_set_sizes(sizes: LabelSetSizes) -> Figure:
    """Objects by how many labels they carry, before and after adding ancestors."""
    figure = Figure(figsize=(9, 4), layout='constrained')
    ax = figure.subplots()
    for counts, shift, colour, name in (
        (sizes.annotated, -0.2, FIRST, 'as annotated'),
        (sizes.expanded, 0.2, SECOND, 'with ancestors'),
    ):
        size = np.flatnonzero(counts)
        bars = ax.bar(size + shift, counts[size], 0.4, color=colour, label=name)
        ax.bar_label(bars, [_compact(value) for value in counts[size]], fontsize=7, padding=2)
    _log_counts(ax, 'Labels of one object', 'objects')
    ax.set_xticks(np.arange(1, max(len(sizes.annotated), len(sizes.expanded))))
    ax.set_xlabel('labels')
    ax.legend(loc='upper right')
    return figure


def draw_group_of(group_of: GroupOf, class_names: Sequence[str], count: int = 25) -> Figure:
    """Classes with the most group-of boxes, by the share of their boxes that are."""
    most = np.argsort(-group_of.group, kind='stable')[:count]
    most = most[group_of.group[most] > 0]
    figure, ax = _rows(len(most), 0.3)
    ax.barh(np.arange(len(most)), group_of.share[most], 0.7, color=SECOND)
    for row, label in enumerate(most):
        _note(ax, group_of.share[label], row, f'{group_of.group[label]:,}')
    names = [short_name(class_names[label]) for label in most]
    is_unknown = group_of.unknown.any() and not (group_of.single + group_of.group).any()
    empty = 'the annotations do not say' if is_unknown else 'none'
    return _finish(ax, 'Group-of boxes', names, "share of the class's boxes (number: group-of boxes)", empty)


def draw_box_sizes(sizes: BoxSizes) -> Figure:
    """Boxes by their area, and by COCO's three sizes."""
    figure = Figure(figsize=(9, 4), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    left.stairs(sizes.boxes, sizes.edges, fill=True, color=FIRST)
    left.set_xscale('log')
    ticks = [10.0**k for k in range(round(np.log10(sizes.edges[0])), 1)]
    left.set_xticks(ticks, [f'{100 * tick:g}%' for tick in ticks])
    left.yaxis.set_major_formatter(THOUSANDS)
    left.set_title('Size of boxes', loc='left', fontsize=11)
    left.set_xlabel('area, of the image')
    left.set_ylabel('boxes')
    left.grid(alpha=0.3)
    share = np.array(sizes.coco) / max(1, sum(sizes.coco))
    bars = right.bar(('small', 'medium', 'large'), share, color=(FIRST, SECOND, THIRD))
    right.bar_label(bars, [f'{value:.1%}' for value in share], fontsize=8, padding=2)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.set_ylim(0, 1.1 * max(share.max(), 0.01))
    right.set_xlabel("COCO's sizes, in pixels")
    return figure


def draw_boxes_per_image(images: np.ndarray) -> Figure:
    """Images by how many boxes they hold; (K,) counts, entry k: images with k boxes."""
    figure = Figure(figsize=(9, 4), layout='constrained')
    ax = figure.subplots()
    # Not bars: hundreds of them would flicker.
    ax.stairs(images, np.arange(len(images) + 1) - 0.5, baseline=0.5, fill=True, color=FIRST)
    _log_counts(ax, 'Boxes of one image', 'images')
    ax.set_xlabel('boxes')
    return figure


def _rows(count: int, height: float) -> tuple[Figure, Axes]:
    """A figure for ``count`` horizontal bars, each ``height`` inches."""
    figure = Figure(figsize=(9, 1.5 + height * max(count, 1)), layout='constrained')
    return figure, figure.subplots()


def _finish(ax: Axes, title: str, names: Sequence[str], xlabel: str, empty: str = 'none') -> Figure:
    """Labels of a figure of :func:`_rows`; no names: it says ``empty``."""
    ax.set_title(title, loc='left', fontsize=11)
    ax.set_xlabel(xlabel)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    # Room for the number behind the longest bar.
    ax.set_xlim(0, 1.15 * (ax.dataLim.xmax or 1) if names else 1)
    ax.set_yticks(np.arange(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis='x', alpha=0.3)
    ax.set_axisbelow(True)
    if not names:
        ax.set_ylim(-0.5, 0.5)
        ax.text(0.5, 0.5, empty, transform=ax.transAxes, ha='center', va='center', color=QUIET)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure


def _note(ax: Axes, x: float, y: float, text: str) -> None:
    ax.annotate(text, (x, y), xytext=(4, 0), textcoords='offset points', va='center', fontsize=7, color='#404040')


def _log_counts(ax: Axes, title: str, ylabel: str) -> None:
    """A logarithmic axis for the bars drawn; one of height 1 can be seen."""
    ax.set_title(title, loc='left', fontsize=11)
    ax.set_yscale('log')
    ax.set_ylim(0.5, 3 * ax.get_ylim()[1])  # above: room for the number on the highest bar
    ax.yaxis.set_major_formatter(THOUSANDS)
    ax.set_ylabel(ylabel)
    ax.grid(axis='y', alpha=0.3)
    ax.set_axisbelow(True)


def _compact(count: int) -> str:
    if count < 10_000:
        return f'{count:,}'
    return f'{count / 1e3:.3g}k' if count < 999_500 else f'{count / 1e6:.3g}M'
