"""Charts: statistics of a data set (Fig. 2 and 3), sampling plans, AP by class (Fig. 5), the course of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter
from scipy.ndimage import uniform_filter1d

from mmoid.openimages.metric.mistakes import Difference
from mmoid.openimages.sampling.coverage import SamplingPlan
from mmoid.openimages.statistics.concurrent_rates import Concurrence
from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import LeafAbsence
from mmoid.utils.atomic import atomic_write

STYLE: dict[Any, Any] = {
    'axes.axisbelow': True,
    'axes.grid': True,
    'axes.titlelocation': 'left',
    'axes.titlesize': 11,
    'figure.constrained_layout.use': True,
    'grid.alpha': 0.3,
}
BLUE, GREEN, RED, GREY = 'tab:blue', 'tab:green', 'tab:red', 'tab:gray'
BY_FREQUENCY = 'class, most frequent first'
LONGEST_NAME = 27  # characters of a class name in an axis label: the length of the longest official name
MAX_ROWS = 30  # bars of a figure
MAX_NAMES = 60  # class names that fit below a figure
NAMED = 6  # classes with the largest gain, and with the largest loss, that are named if not all are


def save(figure: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Writes a PNG file atomically and returns its path."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format='png', bbox_inches='tight')
    return Path(path)


def short_name(name: str) -> str:
    """A class name for an axis label, with escaped dollar signs, which matplotlib would read as mathematics."""
    return (name if len(name) <= LONGEST_NAME else f'{name[: LONGEST_NAME - 1]}…').replace('$', r'\$')


@rc_context(STYLE)
def draw_imbalance(images: np.ndarray, expanded_images: np.ndarray) -> Figure:
    """Images of each class, most frequent first, on a logarithmic scale (Fig. 2).

    ``images`` are the (C,) images of each class as annotated, ``expanded_images`` counts them for ancestors too.
    """
    figure = Figure(figsize=(9, 4.5))
    ax = figure.subplots()
    curves = {'as annotated': images, 'counted for ancestors too': expanded_images}
    for name, counts in curves.items():
        present = np.sort(counts[counts > 0])[::-1]
        span = f'{present[0]:,} to {present[-1]:,}' if len(present) else 'none'
        ax.plot(np.arange(1, len(present) + 1), present, '.-', lw=2, label=f'{name} ({len(present)} classes, {span})')
    ax.set(title='Images of each class', xlabel=BY_FREQUENCY, ylabel='images with the class', yscale='log')
    ax.yaxis.set_major_formatter('{x:,.10g}')
    ax.legend(loc='upper right')
    return figure


def draw_label_pairs(concurrence: Concurrence, class_names: Sequence[str]) -> Figure:
    """The most frequent pairs of labels on one object, with both rates (Fig. 3a)."""
    pairs, rates = concurrence.top_pairs(MAX_ROWS), concurrence.rates
    shares = {
        'of the first, also the second': [rates[i, j] for i, j, _ in pairs],
        'of the second, also the first': [rates[j, i] for i, j, _ in pairs],
    }
    names = [f'{short_name(class_names[i])} · {short_name(class_names[j])} ({n:,})' for i, j, n in pairs]
    return _draw_shares('Labels given to one object (objects with both)', 'share of the objects', names, shares)


def draw_confusion(confusion: Confusion, class_names: Sequence[str]) -> Figure:
    """The labels that a model most often gives to objects annotated otherwise (Fig. 3a, from predictions)."""
    pairs, rates = confusion.top_pairs(MAX_ROWS), confusion.rates
    names = [f'{short_name(class_names[i])} → {short_name(class_names[j])} ({n:,})' for i, j, n in pairs]
    shares = {'': [rates[i, j] for i, j, _ in pairs]}
    return _draw_shares('Annotated → predicted (objects)', 'share of the objects annotated so', names, shares)


def draw_leaf_absence(absence: LeafAbsence, class_names: Sequence[str]) -> Figure:
    """Share of the objects of a parent class that have no finer label (Fig. 3b), classes with most objects first."""
    most = np.argsort(-absence.objects, kind='stable')[: min(MAX_ROWS, np.count_nonzero(absence.objects))]
    names = [f'{short_name(class_names[absence.label[k]])} ({absence.objects[k]:,})' for k in most]
    title = 'Objects of parent classes without a finer label (all objects)'
    return _draw_shares(title, "share of the class's objects", names, {'': absence.share[most]})


@rc_context(STYLE)
def _draw_shares(
    title: str, xlabel: str, names: Sequence[str], shares: Mapping[str, Sequence[float] | np.ndarray]
) -> Figure:
    """Horizontal bars: a row for each name, and in it a bar of each of ``shares``, which are values by legend."""
    figure = Figure(figsize=(9, 1.5 + 0.35 * max(1, len(names))))
    ax = figure.subplots()
    ax.set(title=title, xlabel=xlabel)
    rows, height = np.arange(len(names)), 0.8 / len(shares)
    for k, (name, share) in enumerate(shares.items()):
        bars = ax.barh(rows + (k + 0.5) * height - 0.4, share, height, label=name)
        ax.bar_label(bars, fmt='{:.1%}', fontsize=7, padding=3)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_yticks(rows, names, fontsize=8)
    ax.margins(x=0.15, y=0.02)  # room for the percentage behind the longest bar
    ax.invert_yaxis()
    if not names:
        ax.text(0.5, 0.5, 'none', transform=ax.transAxes, ha='center', va='center')
    if len(shares) > 1:
        figure.legend(loc='outside upper right', ncols=len(shares))
    return figure


@rc_context(STYLE)
def draw_sampling_plans(plans: Sequence[SamplingPlan]) -> Figure:
    """How often an image of each class is seen, and how many never, by plans that differ in λ alone."""
    figure = Figure(figsize=(11, 4.5))
    seen, unseen = figure.subplots(1, 2)
    counts = plans[0].one_epoch.image_counts
    order = np.argsort(-counts, kind='stable')[: np.count_nonzero(counts)]
    rank = np.arange(1, len(order) + 1)
    for plan, colour in zip(plans, colormaps['viridis'](np.linspace(0, 0.88, len(plans)))):
        style = dict(color=colour, ls='', marker='.', ms=4, label=f'λ = {plan.balance:g}')
        seen.plot(rank, plan.all_epochs.seen[order], **style)
        unseen.plot(rank, plan.all_epochs.unseen[order], **style)
    seen.axhline(plans[0].epochs, color=GREY, lw=1, ls='--', label='images in sequence')
    seen.set(title='Times an image of the class is seen', xlabel=BY_FREQUENCY, yscale='log')
    seen.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    seen.yaxis.set_major_formatter('{x:,.10g}×')
    seen.yaxis.set_minor_formatter('')
    seen.legend(fontsize=8)
    unseen.set(title='Images of the class never seen', xlabel=BY_FREQUENCY)
    unseen.yaxis.set_major_formatter(PercentFormatter(1))
    figure.suptitle(f'{len(order)} classes, {plans[0].samples_per_epoch:,} draws per epoch, epochs: {plans[0].epochs}')
    return figure


@rc_context(STYLE)
def draw_class_ap(
    images: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    class_names: Sequence[str],
    names: tuple[str, str] = ('first', 'second'),
) -> Figure:
    """AP by class of two evaluations, from frequent to rare classes (Fig. 5 of the paper).

    ``images`` are the (C,) training images of each class, ``first`` and ``second`` their (C,) AP; classes where one is
    NaN are left out. ``names`` are those of the evaluations. If the names of all classes do not fit, six classes are
    named for the largest gain, and six for the largest loss, and lines show the running mean over a twentieth.

    Raises:
        ValueError: No class has an AP in both.
    """
    both = np.flatnonzero(~np.isnan(first) & ~np.isnan(second))
    if not len(both):
        raise ValueError('no class has an AP in both evaluations')
    order = both[np.argsort(-images[both], kind='stable')]
    first, second, rank = first[order], second[order], np.arange(len(order))
    labels, gain = [short_name(class_names[k]) for k in order], second - first
    many, window = len(order) > MAX_NAMES, len(order) // 20
    figure = Figure(figsize=(12, 8))
    counts, upper, lower = figure.subplots(3, 1, sharex=True, height_ratios=(1, 2, 4))
    title = f'AP by class, most frequent first: {len(order)} classes, mAP {first.mean():.4f} ({names[0]}), '
    title += f'{second.mean():.4f} ({names[1]}); {(gain > 0).sum()} gain, {(gain < 0).sum()} lose'
    counts.bar(rank, images[order], 1, color=GREY)
    counts.set(title=title, ylabel='images', yscale='symlog')  # a class without training images has no bar
    counts.yaxis.set_major_formatter('{x:,.0f}')
    for ap, name, colour in ((first, names[0], GREY), (second, names[1], BLUE)):
        upper.plot(rank, ap, '.', color=colour, alpha=0.5 if many else 1, label=name)
        if many:
            mean = uniform_filter1d(ap, window)
            upper.plot(rank, mean, color=colour, lw=2, label=f'{name}, mean of {window} classes')
    upper.set(ylabel='AP', ylim=(0, 1.02))
    upper.legend(ncols=2)
    lower.bar(rank, gain, 0.9, color=np.where(gain >= 0, GREEN, RED))
    lower.set_ylabel('AP gained')
    if not many:
        lower.set_xticks(rank, labels, rotation=90, fontsize=8)
        return figure
    lower.plot(rank, uniform_filter1d(gain, window), color='black', lw=1.5)
    lower.set_xlabel(BY_FREQUENCY)
    lower.margins(y=0.8)  # room for the names
    by_gain = np.argsort(gain, kind='stable')
    for k in {*by_gain[:NAMED], *by_gain[-NAMED:]}:
        side = 'bottom' if gain[k] > 0 else 'top'
        lower.text(k, gain[k], f' {labels[k]} {gain[k]:+.3f} ', rotation=90, ha='center', va=side, fontsize=7)
    return figure


@rc_context(STYLE)
def draw_training(
    epochs: Sequence[int],
    mean_ap: Sequence[float],
    loss_epochs: Sequence[float],
    losses: Sequence[float],
    lrs: Sequence[float],
    stages: Sequence[tuple[str, int, int]],
) -> Figure:
    """Accuracy (mAP) after ``epochs``, loss and learning rate at ``loss_epochs``, in fractions, and a band per stage.

    ``stages`` are (name, first epoch from 0, epoch after the last).
    """
    figure = Figure(figsize=(9, 6))
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(epochs, mean_ap, marker='o', color=RED)
    top.set(ylabel='mAP', ylim=(0, 1.1))
    for epoch, value in zip(epochs, mean_ap):
        top.text(epoch, value + 0.04, f'{value:.3f}', ha='center', fontsize=8)
    middle.plot(loss_epochs, losses, color=BLUE)
    middle.set(ylabel='loss', ylim=(0, None))
    bottom.semilogy(loss_epochs, lrs, color=GREEN, drawstyle='steps-post')
    bottom.set(xlabel='epoch', ylabel='learning rate')
    for k, (name, start, stop) in enumerate(stages):
        top.text((start + stop) / 2, 0.04, name, ha='center', fontsize=9)
        for ax in figure.axes:
            ax.axvspan(start, stop, color=('#f4f4f4', '#fff2d8', '#e4f2ff')[k % 3], zorder=-1)
    return figure


@rc_context(STYLE)
def draw_comparison(
    groups: Sequence[str], differences: Sequence[Difference], kinds: Sequence[str], counts: Sequence[np.ndarray]
) -> Figure:
    """Differences in mAP with their intervals by group of classes, and (K,) errors of the first and second by kind."""
    figure = Figure(figsize=(12, 4.5))
    left, right = figure.subplots(1, 2)
    low, value, high = np.array([[one.low, one.value, one.high] for one in differences]).T
    left.hlines(groups, low, high, color=BLUE)
    left.plot(value, groups, 'o', color=BLUE)
    left.axvline(0, color=GREY)
    left.set(title='Second minus first, 95 % interval', xlabel='difference in mAP')
    place = np.arange(len(kinds))
    right.barh(place - 0.2, counts[0], 0.4, color=GREY, label='first')
    right.barh(place + 0.2, counts[1], 0.4, color=BLUE, label='second')
    right.set(title='Errors', xlabel='detections', yticks=place, yticklabels=kinds)
    right.legend()
    for ax in (left, right):
        ax.invert_yaxis()
    return figure
