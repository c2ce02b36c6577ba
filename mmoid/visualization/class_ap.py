"""AP of each class in two evaluations, from frequent to rare classes (after Fig. 5 of the paper)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mmoid.visualization.figure import short_name

FIRST, SECOND, GAIN, LOSS, QUIET = '#808080', '#2060c0', '#208040', '#d02020', '#b0b0b0'
MOST_NAMES = 60
"""Classes whose names fit below the figure; of more, only those that changed most are named."""


def draw_class_ap(
    images: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    class_names: Sequence[str],
    names: tuple[str, str] = ('first', 'second'),
    top: int = 6,
) -> Figure:
    """Draws AP by class of both, what the second gains on the first, and the images of the classes.

    Classes stand from the most to the least frequent; one without AP (no ground truth) in either is left out. With many
    classes a line shows the running mean, over a twentieth of them.

    Args:
        images: (C,) training images of each class.
        first: (C,) AP, NaN: none.
        second: (C,) AP, NaN: none.
        class_names: C names.
        names: Of the two evaluations, for the legend.
        top: Classes that are named for the largest gain, and as many for the largest loss, where not all are; >= 1.

    Raises:
        ValueError: No class has an AP in both.
    """
    both = np.flatnonzero(~np.isnan(first) & ~np.isnan(second))
    if not len(both):
        raise ValueError('no class has an AP in both evaluations')
    order = both[np.argsort(-images[both], kind='stable')]
    images, first, second = images[order], first[order], second[order]
    labels = [short_name(class_names[label]) for label in order]
    gain, place = second - first, np.arange(len(order))
    window = max(1, len(order) // 20)

    figure = Figure(figsize=(12, 8), layout='constrained')
    counts, upper, lower = figure.subplots(3, 1, sharex=True, height_ratios=(1, 3, 3))
    counts.bar(place, images, 1, color=QUIET)
    counts.set_yscale('log')
    counts.set_ylim(max(0.5, images[images > 0].min(initial=1) / 2), 2 * max(1, images.max()))
    counts.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    counts.set_ylabel('images')
    counts.set_title(_headline(first, second, names), loc='left', fontsize=11)

    alone = window == 1
    if alone:  # which two points belong together
        upper.vlines(place, first, second, color=QUIET, lw=1.2, zorder=1)
    for values, name, colour in ((first, names[0], FIRST), (second, names[1], SECOND)):
        upper.plot(place, values, 'o', color=colour, ms=5 if alone else 3, alpha=1 if alone else 0.45,
                   label=name if alone else None)  # fmt: skip
        if not alone:
            upper.plot(
                place, _running_mean(values, window), color=colour, lw=2, label=f'{name}, mean of {window} classes'
            )
    upper.set_ylabel('AP')
    upper.set_ylim(0, 1.02)
    upper.legend(loc='upper center', bbox_to_anchor=(0.5, 1.12), ncols=2, frameon=False)

    lower.bar(place, gain, 0.9, color=np.where(gain >= 0, GAIN, LOSS))
    lower.axhline(0, color='black', lw=0.8)
    lower.set_ylabel('AP gained')
    if window > 1:
        lower.plot(place, _running_mean(gain, window), color='black', lw=1.5)
        lower.set_ylabel(f'AP gained (line: mean of {window} classes)')
    _name_classes(lower, labels, gain, top)
    lower.set_xlim(-1, len(order))
    for ax in (counts, upper, lower):
        ax.grid(axis='y', alpha=0.3)
        ax.set_axisbelow(True)
    figure.align_ylabels()
    return figure


def _headline(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> str:
    gain = second - first
    return (
        f'AP by class, most frequent first: {len(first)} classes, mAP {first.mean():.4f} ({names[0]}), '
        f'{second.mean():.4f} ({names[1]}); {(gain > 0).sum()} gain, {(gain < 0).sum()} lose'
    )


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the classes at most half a window away; fewer at both ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    low = np.maximum(place - window // 2, 0)
    high = np.minimum(place - window // 2 + window, len(values))
    mean: np.ndarray = (total[high] - total[low]) / (high - low)
    return mean


def _name_classes(ax: Axes, labels: Sequence[str], gain: np.ndarray, top: int) -> None:
    room = max(0.05, float(np.abs(gain).max()))
    if len(labels) <= MOST_NAMES:
        ax.set_xticks(np.arange(len(labels)), labels, rotation=90, fontsize=8)
        low, high = min(float(gain.min()), -0.1 * room), max(float(gain.max()), 0.1 * room)
        ax.set_ylim(low - 0.1 * room, high + 0.1 * room)
        return
    ax.set_xlabel('class, most frequent first')
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_gain = np.argsort(gain, kind='stable')
    best = [k for k in by_gain[::-1][:top] if gain[k] > 0]
    worst = [k for k in by_gain[:top] if gain[k] < 0]
    ax.set_ylim(-2.2 * room, 2.2 * room)
    for chosen, edge, side in ((best, 2.1 * room, 'top'), (worst, -2.1 * room, 'bottom')):
        bars = np.sort(np.array(chosen, dtype=np.int64))
        for k, x in zip(bars.tolist(), _spread(bars, len(labels) / (2 * top), len(labels))):
            text = f'{textwrap.fill(labels[k], 16)}\n{gain[k]:+.3f}'
            line = dict(arrowstyle='-', color=QUIET, lw=0.8)
            ax.annotate(text, (k, gain[k]), (x, edge), ha='center', va=side, fontsize=8, arrowprops=line)


def _spread(place: np.ndarray, gap: float, end: float) -> np.ndarray:
    """Ascending places, moved so that they are at least ``gap`` apart and half a gap away from 0 and ``end``."""
    slots = gap * np.arange(len(place))
    from_left = slots + np.maximum.accumulate(np.maximum(place, gap / 2) - slots)
    last = end - gap / 2 - slots[::-1]
    moved: np.ndarray = np.minimum(from_left, last)
    return moved
