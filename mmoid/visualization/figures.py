"""Charts: statistics of a data set (Fig. 2 and 3), sampling plans, AP by class (Fig. 5), the course of a training.

Each function draws one figure. :func:`save` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from mmoid.openimages.metric.comparison import Difference
from mmoid.openimages.sampling.coverage import SamplingPlan
from mmoid.openimages.statistics.concurrent_rates import Concurrence
from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import Imbalance, LeafAbsence
from mmoid.utils.atomic import atomic_write

BLUE, ORANGE, GREEN, RED, GREY = '#2060c0', '#e08020', '#208040', '#d02020', '#909090'
THOUSANDS, TIMES = '{x:,.0f}', '{x:,.10g}×'
BY_FREQUENCY = 'class, most frequent first'
LONGEST_NAME = 27
"""Characters of a class name in an axis label: the length of the longest official name."""

MAX_NAMES = 60
"""Class names that fit below a figure."""


def save(figure: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Writes a PNG file atomically and returns its path."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format='png', bbox_inches='tight')
    return Path(path)


def plain(text: str) -> str:
    """Text with escaped dollar signs, which matplotlib would read as mathematics."""
    return text.replace('$', r'\$')


def short_name(name: str) -> str:
    """A class name for an axis label, cut at :data:`LONGEST_NAME` characters."""
    return plain(name if len(name) <= LONGEST_NAME else f'{name[: LONGEST_NAME - 1]}…')


def draw_imbalance(imbalance: Imbalance) -> Figure:
    """Images of each class, most frequent first, on a logarithmic scale (Fig. 2)."""
    figure, ax = _chart('Images of each class', BY_FREQUENCY, 'images with the class')
    curves = [
        (imbalance.images, 'as annotated', BLUE),
        (imbalance.expanded_images, 'counted for ancestors too', ORANGE),
    ]
    for counts, name, colour in curves:
        present = np.sort(counts[counts > 0])[::-1]
        span = f'{present[0]:,} to {present[-1]:,}' if len(present) else 'none'
        label = f'{name} ({len(present)} classes, {span})'
        ax.plot(np.arange(1, len(present) + 1), present, color=colour, label=label, lw=2)
    ax.set_yscale('log')
    ax.yaxis.set_major_formatter(THOUSANDS)
    ax.legend(loc='upper right')
    return figure


def draw_label_pairs(concurrence: Concurrence, class_names: Sequence[str], count: int = 20) -> Figure:
    """The most frequent pairs of labels on one object, with both rates (Fig. 3a)."""
    pairs, rates = concurrence.top_pairs(count), concurrence.rates
    return _draw_shares(
        'Labels given to one object',
        'share of the objects (number: objects with both)',
        [f'{short_name(class_names[i])} · {short_name(class_names[j])}' for i, j, _ in pairs],
        {
            'of the first, also the second': np.array([rates[i, j] for i, j, _ in pairs]),
            'of the second, also the first': np.array([rates[j, i] for i, j, _ in pairs]),
        },
        [objects for *_, objects in pairs],
    )


def draw_confusion(confusion: Confusion, class_names: Sequence[str], count: int = 20) -> Figure:
    """The labels that a model most often gives to objects annotated otherwise (Fig. 3a, from predictions)."""
    pairs, rates = confusion.top_pairs(count), confusion.rates
    return _draw_shares(
        'Annotated → predicted',
        'share of the objects annotated so (number: objects)',
        [f'{short_name(class_names[i])} → {short_name(class_names[j])}' for i, j, _ in pairs],
        {'': np.array([rates[i, j] for i, j, _ in pairs])},
        [objects for *_, objects in pairs],
    )


def draw_leaf_absence(absence: LeafAbsence, class_names: Sequence[str], count: int = 25) -> Figure:
    """Share of the objects of a parent class that have no finer label (Fig. 3b), classes with most objects first."""
    most = _largest(absence.objects, count)
    return _draw_shares(
        'Objects of parent classes without a finer label',
        "share of the class's objects (number: all its objects)",
        [short_name(class_names[label]) for label in absence.label[most]],
        {'': absence.share[most]},
        absence.objects[most],
    )


def draw_sampling_plans(plans: Sequence[SamplingPlan]) -> Figure:
    """How often an image of each class is seen, and the share of each class's images that are never seen.

    Args:
        plans: One for each λ, of the same data set, epochs and draws.
    """
    figure = Figure(figsize=(11, 4.5), layout='constrained')
    seen, unseen = figure.subplots(1, 2)
    counts = plans[0].one_epoch.image_counts
    order = _largest(counts, len(counts))
    rank = np.arange(1, len(order) + 1)
    for plan, colour in zip(plans, colormaps['viridis'](np.linspace(0, 0.88, len(plans)))):
        for ax, of_class in ((seen, plan.all_epochs.seen), (unseen, plan.all_epochs.unseen)):
            ax.plot(rank, of_class[order], '.', color=colour, ms=4, label=f'λ = {plan.balance:g}')
    _finish(seen, 'Times an image of the class is seen', BY_FREQUENCY)
    _finish(unseen, 'Images of the class never seen', BY_FREQUENCY)
    seen.axhline(plans[0].epochs, color=GREY, lw=1, ls='--', label='images in sequence')
    seen.set_yscale('log')
    seen.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    seen.yaxis.set_major_formatter(TIMES)
    seen.yaxis.set_minor_formatter('')
    seen.legend(fontsize=8)
    unseen.yaxis.set_major_formatter(PercentFormatter(1))
    title = f'{len(order)} classes, {plans[0].samples_per_epoch:,} draws per epoch, epochs: {plans[0].epochs}'
    figure.suptitle(title, fontsize=11)
    return figure


def draw_class_ap(
    images: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    class_names: Sequence[str],
    names: tuple[str, str] = ('first', 'second'),
    top: int = 6,
) -> Figure:
    """AP by class of two evaluations, from frequent to rare classes (Fig. 5 of the paper).

    Classes without an AP in either evaluation are left out. With many classes, a line shows the running mean over a
    twentieth of them.

    Args:
        images: (C,) training images of each class.
        first: (C,) AP, NaN: none.
        second: (C,) AP, NaN: none.
        class_names: C names.
        names: Of the two evaluations, for the legend.
        top: Classes named for the largest gain, and for the largest loss, if not all names fit; >= 1.

    Raises:
        ValueError: No class has an AP in both.
    """
    both = np.flatnonzero(~np.isnan(first) & ~np.isnan(second))
    if not len(both):
        raise ValueError('no class has an AP in both evaluations')
    order = both[np.argsort(-images[both], kind='stable')]
    images, first, second = images[order], first[order], second[order]
    gain, rank = second - first, np.arange(len(order))
    window = max(1, len(order) // 20)
    figure = Figure(figsize=(12, 8), layout='constrained')
    counts, upper, lower = figure.subplots(3, 1, sharex=True, height_ratios=(1, 2, 4))
    title = (
        f'AP by class, most frequent first: {len(order)} classes, mAP {first.mean():.4f} ({names[0]}), '
        f'{second.mean():.4f} ({names[1]}); {(gain > 0).sum()} gain, {(gain < 0).sum()} lose'
    )
    for ax, above, ylabel in ((counts, title, 'images'), (upper, '', 'AP'), (lower, '', 'AP gained')):
        _finish(ax, above, '', ylabel)
    counts.bar(rank, images, 1, color=GREY)
    counts.set_yscale('symlog')  # a class without training images has a bar of height 0
    counts.yaxis.set_major_formatter(THOUSANDS)
    for ap, name, colour in ((first, names[0], GREY), (second, names[1], BLUE)):
        upper.plot(rank, ap, '.', color=colour, alpha=0.5 if window > 1 else 1, label=name)
        if window > 1:
            upper.plot(rank, _running_mean(ap, window), color=colour, lw=2, label=f'{name}, mean of {window} classes')
    upper.set_ylim(0, 1.02)
    upper.legend(loc='best', ncols=2)
    lower.bar(rank, gain, 0.9, color=np.where(gain >= 0, GREEN, RED))
    if window > 1:
        lower.plot(rank, _running_mean(gain, window), color='black', lw=1.5)
    _name_classes(lower, [short_name(class_names[label]) for label in order], gain, top)
    return figure


def draw_training(
    epochs: Sequence[int],
    mean_ap: Sequence[float],
    loss_epochs: Sequence[float],
    losses: Sequence[float],
    lrs: Sequence[float],
    stages: Sequence[tuple[str, int, int]],
) -> Figure:
    """mAP, loss and learning rate over epochs, with one coloured band per stage.

    Args:
        epochs: Epochs after which the model was validated.
        mean_ap: mAP there.
        loss_epochs: Epochs, with fractions, of the next two.
        losses: Training loss.
        lrs: Learning rate.
        stages: (name, first epoch from 0, epoch after the last).
    """
    figure = Figure(figsize=(9, 6), layout='constrained')
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    for ax, xlabel, ylabel in ((top, '', 'mAP'), (middle, '', 'loss'), (bottom, 'epoch', 'learning rate')):
        _finish(ax, '', xlabel, ylabel)
        for k, (_, start, stop) in enumerate(stages):
            ax.axvspan(start, stop, color=('#f4f4f4', '#fff2d8', '#e4f2ff')[k % 3], zorder=-1)
    top.plot(epochs, mean_ap, marker='o', color=RED)
    top.set_ylim(0, 1.1)
    for epoch, value in zip(epochs, mean_ap):
        top.annotate(f'{value:.3f}', (epoch, value), textcoords='offset points', xytext=(0, 6), ha='center', fontsize=8)
    for name, start, stop in stages:
        top.text((start + stop) / 2, 0.04, name, ha='center', fontsize=9)
    middle.plot(loss_epochs, losses, color=BLUE)
    middle.set_ylim(bottom=0)
    bottom.semilogy(loss_epochs, lrs, color=GREEN, drawstyle='steps-post')
    return figure


def draw_comparison(
    groups: Sequence[str], differences: Sequence[Difference], kinds: Sequence[str], counts: Sequence[np.ndarray]
) -> Figure:
    """Differences in mAP with their intervals, and errors of two sets of predictions by kind.

    Args:
        groups: Names of the groups of classes.
        differences: Of each group.
        kinds: K names.
        counts: (K,) errors of the first set, and of the second.
    """
    figure = Figure(figsize=(12, 4.5), layout='constrained')
    left, right = figure.subplots(1, 2)
    _finish(left, 'Second minus first, 95 % interval', 'difference in mAP')
    value, low, high = (np.array([getattr(one, name) for one in differences]) for name in ('value', 'low', 'high'))
    ends = np.maximum([value - low, high - value], 0)
    left.errorbar(value, np.arange(len(groups)), xerr=ends, fmt='o', color=BLUE, capsize=3)
    left.axvline(0, color=GREY)
    left.set_yticks(np.arange(len(groups)), groups)
    left.invert_yaxis()
    _finish(right, 'Errors', 'detections')
    place = np.arange(len(kinds))
    for offset, colour, name, of_kind in zip((-0.2, 0.2), (GREY, BLUE), ('first', 'second'), counts):
        right.barh(place + offset, of_kind, 0.4, color=colour, label=name)
    right.set_yticks(place, kinds)
    right.invert_yaxis()
    right.legend()
    return figure


def _chart(title: str, xlabel: str, ylabel: str, height: float = 4.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), layout='constrained')
    ax = figure.subplots()
    _finish(ax, title, xlabel, ylabel)
    return figure, ax


def _finish(ax: Axes, title: str, xlabel: str, ylabel: str = '') -> None:
    ax.set_title(title, loc='left', fontsize=11)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)


def _draw_shares(
    title: str,
    xlabel: str,
    names: Sequence[str],
    shares: dict[str, np.ndarray],
    counts: Sequence[int] | np.ndarray,
) -> Figure:
    """Horizontal bars of shares, one row per name, with a count behind each row.

    Args:
        title: Above the figure.
        xlabel: Below it.
        names: N rows.
        shares: (N,) values in [0, 1] by name in the legend.
        counts: (N,).
    """
    figure, ax = _chart(title, xlabel, '', 1.5 + 0.35 * max(1, len(names)))
    rows, height = np.arange(len(names)), 0.8 / len(shares)
    for k, ((name, share), colour) in enumerate(zip(shares.items(), (BLUE, ORANGE))):
        bars = ax.barh(rows + (k + 0.5) * height - 0.4, share, height, color=colour, label=name)
    ax.bar_label(bars, [f'{count:,}' for count in counts], fontsize=7, padding=3)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_yticks(rows, names, fontsize=8)
    if not names:
        ax.text(0.5, 0.5, 'none', transform=ax.transAxes, ha='center', va='center')
        return figure
    ax.set_xlim(0, 1.15 * (ax.dataLim.xmax or 1))  # room for the count behind the longest bar
    ax.set_ylim(len(names) - 0.4, -0.6)
    if len(shares) > 1:
        figure.legend(loc='outside upper right', ncols=len(shares))
    return figure


def _name_classes(ax: Axes, names: Sequence[str], gain: np.ndarray, top: int) -> None:
    if len(names) <= MAX_NAMES:
        ax.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=8)
        return
    ax.set_xlabel(BY_FREQUENCY)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(y=0.8)  # room for the names
    by_gain = np.argsort(gain, kind='stable')
    for k in {*by_gain[:top].tolist(), *by_gain[-top:].tolist()}:
        text, side = f'{names[k]} {gain[k]:+.3f}', 'bottom' if gain[k] > 0 else 'top'
        ax.text(k, gain[k], f' {text} ', rotation=90, ha='center', va=side, fontsize=7)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the classes at most half a window away; fewer at both ends."""
    ones = np.ones(window)
    mean: np.ndarray = np.convolve(values, ones, 'same') / np.convolve(np.ones(len(values)), ones, 'same')
    return mean


def _largest(counts: np.ndarray, number: int) -> np.ndarray:
    """Indices of the ``number`` largest counts above 0, the largest first."""
    order = np.argsort(-counts, kind='stable')[:number]
    return order[counts[order] > 0]
