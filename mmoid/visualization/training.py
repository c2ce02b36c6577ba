"""The course of a training in stages."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure


def draw_training(
    epochs: Sequence[int],
    mean_ap: Sequence[float],
    loss_epochs: Sequence[float],
    losses: Sequence[float],
    rates: Sequence[float],
    stages: Sequence[tuple[str, int, int]],
) -> Figure:
    """mAP, loss and learning rate over epochs, one band of colour for each stage.

    Args:
        epochs: Epochs after which it was validated.
        mean_ap: mAP there.
        loss_epochs: Points in time, in epochs, of the next two.
        losses: Training loss.
        rates: Learning rate.
        stages: (name, first epoch from 0, epoch after the last).
    """
    figure = Figure(figsize=(9, 6), layout='constrained')
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(epochs, mean_ap, marker='o', color='#d02020')
    for epoch, value in zip(epochs, mean_ap):
        top.annotate(f'{value:.3f}', (epoch, value), textcoords='offset points', xytext=(0, 6), ha='center', fontsize=8)
    top.set_ylabel('mAP')
    top.set_ylim(0, 1.1)
    middle.plot(loss_epochs, losses, color='#2060c0')
    middle.set_ylabel('loss')
    middle.set_ylim(bottom=0)
    bottom.semilogy(loss_epochs, rates, color='#208040', drawstyle='steps-post')
    bottom.set_ylabel('learning rate')
    bottom.set_xlabel('epoch')
    for ax in (top, middle, bottom):
        for i, (name, start, stop) in enumerate(stages):
            ax.axvspan(start, stop, color=('#f4f4f4', '#fff2d8', '#e4f2ff')[i % 3], zorder=-1)
            if ax is top:
                ax.text((start + stop) / 2, 0.04, name, ha='center', fontsize=9, color='#606060')
        ax.grid(alpha=0.3)
    return figure
