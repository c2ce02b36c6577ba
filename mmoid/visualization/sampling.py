"""What a choice of λ shows of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mmoid.openimages.sampling.coverage import SamplingPlan

TIMES = FuncFormatter(lambda value, _: f'{value:,.10g}×')


def draw_sampling_plans(plans: Sequence[SamplingPlan]) -> Figure:
    """How often the images of each class come, how many of them never do, and how many images and boxes in all.

    On the left one epoch, by the draws for each class alone, as the paper's Sec. 3 counts; on the right all epochs, an
    image counting as seen for whichever of its classes it was drawn.

    Args:
        plans: One for each λ, of the same data set, epochs and draws.
    """
    figure = Figure(figsize=(11, 11), layout='constrained')
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 0.8))
    panels = [[figure.add_subplot(grid[row, column]) for column in (0, 1)] for row in (0, 1)]
    (drawn, seen), (neglected, unseen) = panels
    counts = plans[0].one_epoch.image_counts
    order = np.argsort(-counts, kind='stable')[: np.count_nonzero(counts)]
    rank = np.arange(1, len(order) + 1)
    for plan, colour in zip(plans, colormaps['viridis'](np.linspace(0, 0.88, len(plans)))):
        name = f'λ = {plan.balance:g}'
        drawn.plot(rank, plan.one_epoch.drawn[order], color=colour, lw=2, label=name)
        neglected.plot(rank, plan.one_epoch.neglected[order], color=colour, lw=2, label=name)
        # Points: images of a rare class are drawn for their frequent ones too, more or less of them.
        seen.plot(rank, plan.all_epochs.seen[order], '.', ms=4, color=colour, label=name)
        unseen.plot(rank, plan.all_epochs.unseen[order], '.', ms=4, color=colour, label=name)
    epochs = _epochs(plans[0])
    _times(drawn, 'Times an image is drawn for the class, in one epoch', 1)
    _times(seen, f'Times an image of the class is seen, in {epochs}', plans[0].epochs)
    _shares(neglected, 'Images of the class not drawn for it, in one epoch')
    _shares(unseen, f'Images of the class never seen, in {epochs}')
    _draw_totals(figure.add_subplot(grid[2, :]), plans)
    figure.suptitle(f'{len(order)} classes, {plans[0].samples_per_epoch:,} draws an epoch', fontsize=11)
    return figure


def _draw_totals(ax: Axes, plans: Sequence[SamplingPlan]) -> None:
    bars = [
        ('images, one epoch', [plan.one_epoch.images_unseen for plan in plans], '#9bbcec'),
        ('boxes, one epoch', [plan.one_epoch.boxes_unseen for plan in plans], '#f3c79a'),
        (f'images, {_epochs(plans[0])}', [plan.all_epochs.images_unseen for plan in plans], '#2060c0'),
        (f'boxes, {_epochs(plans[0])}', [plan.all_epochs.boxes_unseen for plan in plans], '#e08020'),
    ][2 if plans[0].epochs == 1 else 0 :]
    width = 0.84 / len(bars)
    for k, (name, shares, colour) in enumerate(bars):
        place = np.arange(len(plans)) + (k - (len(bars) - 1) / 2) * width
        drawn = ax.bar(place, shares, width, color=colour, label=name)
        ax.bar_label(drawn, [f'{share:.1%}' for share in shares], fontsize=7, padding=2)
    ax.set_xticks(np.arange(len(plans)), [f'λ = {plan.balance:g}' for plan in plans])
    ax.set_xlim(-0.6, len(plans) - 0.4)
    ax.set_ylim(0, 1.12 * max(0.01, *(max(shares) for _, shares, _ in bars)))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set_title('Never seen, of all images and of all boxes', loc='left', fontsize=10)
    ax.grid(axis='y', alpha=0.3)
    ax.set_axisbelow(True)
    ax.legend(loc='upper left', fontsize=8)


def _times(ax: Axes, title: str, in_sequence: int) -> None:
    _finish(ax, title)
    ax.set_yscale('log')
    ax.yaxis.set_major_formatter(TIMES)
    ax.set_ylim(bottom=ax.get_ylim()[0] / 2)
    ax.axhline(in_sequence, color='#808080', lw=1, ls='--', zorder=0)
    ax.annotate('in sequence', (1, in_sequence), (-4, -3), xycoords=('axes fraction', 'data'),
                textcoords='offset points', ha='right', va='top', fontsize=8, color='#606060')  # fmt: skip
    ax.legend(loc='upper left', fontsize=8, markerscale=2.5)


def _shares(ax: Axes, title: str) -> None:
    _finish(ax, title)
    ax.set_ylim(bottom=-0.02 * max(ax.dataLim.ymax, 0.01), top=1.05 * max(ax.dataLim.ymax, 0.01))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if ax.dataLim.ymax > 0.05 else 1))


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, loc='left', fontsize=10)
    ax.set_xlabel('class, most frequent first')
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)


def _epochs(plan: SamplingPlan) -> str:
    return 'one epoch' if plan.epochs == 1 else f'{plan.epochs} epochs'
