"""Concurrent softmax as pure functions (Sec. 4.1.2 of the paper, Eq. 3-5).

Shapes: N rows (boxes), M channels, background included. ``rates[i, j]`` is r_ij, the probability that an object of
class i is also labelled j; the diagonal is ignored (r_ii = 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

PAIR_ELEMENTS = 1 << 24
"""Bounds the memory of the exact path of :func:`concurrent_softmax`: 64 MiB in float32."""

SAFE_SCORE = 1e-12
"""At a score above it, terms that underflow in float32, each under 1.2e-38, are under 1e-26 of the score."""


def concurrent_softmax_loss(logits: Tensor, targets: Tensor, rates: Tensor) -> Tensor:
    """Training loss, Eq. 3: L(b) = - sum over labels i of b of log σ_i, where

    σ_i = e^{z_i} / (Σ_{j≠i} (1 - y_j) (1 - r_ij) e^{z_j} + e^{z_i}).

    Exact for any finite logits.

    Args:
        logits: (N, M) floating point. Half precision is computed in float32.
        targets: (N, M) bool, the label set of each row. A row without labels has loss 0.
        rates: (M, M) in [0, 1].

    Returns:
        (N,) losses, float32 (float64 for float64 logits). Differentiable once, by the logits.
    """
    rows, labels = nonzero(targets.bool())
    return concurrent_softmax_loss_of_pairs(logits, rows, labels, rates, ordinary_classes(rates))


def concurrent_softmax_loss_of_pairs(
    logits: Tensor,
    rows: Tensor,
    labels: Tensor,
    rates: Tensor,
    is_ordinary: Tensor,
    class_weight: Tensor | None = None,
) -> Tensor:
    """:func:`concurrent_softmax_loss` of label sets that are given as (row, label) pairs.

    Args:
        logits: (N, M).
        rows: (P,) row of each label.
        labels: (P,) the labels; no pair twice.
        rates: (M, M).
        is_ordinary: :func:`ordinary_classes` of the rates. It looks at all of them: keep it between calls.
        class_weight: (M,) factor of the term of label i. None: 1.
    """
    return _ConcurrentSoftmaxLoss.apply(_at_least_float32(logits), rows, labels, rates, is_ordinary, class_weight)


def ordinary_classes(rates: Tensor) -> Tensor:
    """(M,) bool: classes that all others suppress in full, such as background."""
    return rates.count_nonzero(dim=1) == rates.diagonal().ne(0)


def nonzero(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every True of an (N, M) mask, row by row."""
    if mask.device.type != 'cpu':
        return mask.nonzero(as_tuple=True)  # type: ignore[return-value]
    # numpy's takes a seventh of the time of torch's, which would be as much as all of the loss.
    flat = torch.from_numpy(np.flatnonzero(mask.contiguous().numpy()))
    return flat // mask.shape[1], flat % mask.shape[1]


def occurrences(rows: Tensor, num_rows: int) -> Tensor:
    """(N,) how often each row is among (P,) rows. ``bincount`` would make a GPU wait for what it finds."""
    return rows.new_zeros(num_rows).index_add_(0, rows, torch.ones_like(rows))


class _ConcurrentSoftmaxLoss(torch.autograd.Function):
    """Computes the gradient (Eq. 4) along with the loss.

    One softmax over all rows, s_j = e^{z_j} / Σ e^{z_k}, serves all labels, for in Eq. 3 its denominator cancels: with
    o = Σ_{j≠i} (1 - y_j) (1 - r_ij) s_j the loss -log σ_i is log(1 + o / s_i), and its gradient is -o / (o + s_i) by
    z_i, (1 - r_ij) s_j / (o + s_i) by the others. A label that is alone in its row, of an ordinary class, has
    σ_i = s_i, plain cross-entropy; so have most rows. Where s_i is so small that underflow could matter, Eq. 3 is
    computed from the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        rows: Tensor,
        labels: Tensor,
        rates: Tensor,
        is_ordinary: Tensor,
        class_weight: Tensor | None,
    ) -> Tensor:
        scores = logits.softmax(dim=1)
        own = scores[rows, labels]
        weight = torch.ones_like(own) if class_weight is None else class_weight.to(own.dtype)[labels]
        is_plain = (occurrences(rows, len(logits))[rows] == 1) & is_ordinary[labels] & (own >= SAFE_SCORE)
        pair_losses = -own.log()  # of plain pairs; those of the others follow
        pairs = (~is_plain).nonzero().squeeze(1)
        row, label, own = rows[pairs], labels[pairs], own[pairs]
        scores.index_put_((row, label), scores.new_zeros(()))  # (1 - y_j): labels of one box do not suppress each other
        gradients = rates.index_select(0, label).to(own.dtype)
        torch.sub(own.new_ones(()), gradients, out=gradients)  # (1 - r_ij), in place
        gradients *= scores.index_select(0, row)
        others = gradients.sum(dim=1)
        total = others + own
        pair_losses[pairs] = (others / own).log1p()
        gradients /= total[:, None]
        gradients[torch.arange(len(pairs), device=logits.device), label] = -others / total
        lost = (own < SAFE_SCORE).nonzero().squeeze(1)
        if len(lost):
            pair_losses[pairs[lost]], gradients[lost] = _from_logits(logits, rows, labels, pairs[lost], rates)
        if class_weight is not None:
            gradients *= weight[pairs, None]
        # Of a row with a plain pair the gradient is softmax - y; rows with other pairs, or none, begin at 0.
        plain_weight = weight * is_plain
        gradient = scores.mul_(logits.new_zeros(len(logits)).index_add_(0, rows, plain_weight)[:, None])
        gradient.index_put_((rows, labels), gradient[rows, labels] - plain_weight)  # no pair is there twice
        gradient.index_add_(0, row, gradients)
        ctx.save_for_backward(gradient)
        return logits.new_zeros(len(logits)).index_add_(0, rows, pair_losses * weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_losses: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_losses[:, None], None, None, None, None, None


def _from_logits(logits: Tensor, rows: Tensor, labels: Tensor, pairs: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) losses of some pairs, Eq. 3, and (K, M) gradients, Eq. 4, without loss of digits.

    Args:
        logits: (N, M).
        rows: (P,) of all pairs.
        labels: (P,) of all pairs.
        pairs: (K,) which of them.
        rates: (M, M).
    """
    sets = torch.zeros_like(logits, dtype=torch.bool)
    sets[rows, labels] = True
    row, label = rows[pairs], labels[pairs]
    weights = (1 - rates[label].to(logits.dtype)).masked_fill_(sets[row], 0)
    odds, shares = _log_odds(logits[row], label, weights)
    rest = (-odds).sigmoid()[:, None]  # 1 - σ_i
    return -logsigmoid(odds), (shares * rest).scatter_(1, label[:, None], -rest)


def _log_odds(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log (e^{z_i} / Σ_j w_j e^{z_j}): the logit of σ_i, so that σ_i is its sigmoid and the loss -logsigmoid.

    Only differences of logits are taken, so that nothing is rounded to the size of a logit, and each to the largest one
    that counts, so that no term underflows that matters.

    Args:
        logits: (K, M).
        labels: (K,) i of each row.
        weights: (K, M) w_j >= 0; 0 at i.

    Returns:
        (K,) log-odds, finite, and (K, M) share of each term in the sum; 0 where no term is.
    """
    limits = torch.finfo(logits.dtype)
    own = logits.gather(1, labels[:, None])
    counted = logits.masked_fill(weights == 0, -torch.inf)
    largest = counted.amax(dim=1, keepdim=True).clamp_(min=limits.min)
    terms = counted.sub_(largest).exp_().mul_(weights)
    total = terms.sum(dim=1, keepdim=True).clamp_(min=limits.tiny)
    odds = (own - largest).clamp_(limits.min, limits.max) - total.log()
    return odds.squeeze(1), terms.div_(total)


def concurrent_softmax(logits: Tensor, rates: Tensor) -> Tensor:
    """Inference activation, Eq. 5: σ_i = e^{z_i} / Σ_j (1 - r_ij) e^{z_j}.

    Concurrent classes do not suppress each other, so a row may sum to more than 1.

    Args:
        logits: (N, M) floating point.
        rates: (M, M) in [0, 1].

    Returns:
        (N, M) in [0, 1], float32 (float64 for float64 logits).
    """
    logits = _at_least_float32(logits)
    weights = (1 - rates.to(logits.dtype)).fill_diagonal_(1)
    exponentials = (logits - logits.amax(dim=1, keepdim=True)).exp()
    with torch.autocast(logits.device.type, enabled=False):  # it would take the product to half precision
        denominators = exponentials @ weights.T
    scores = exponentials / denominators.clamp(min=SAFE_SCORE)
    # Where the largest logits are concurrent with class i, little that was not lost to underflow is left to divide by.
    weights.fill_diagonal_(0)
    rows, labels = nonzero(denominators < SAFE_SCORE)
    step = max(1, PAIR_ELEMENTS // logits.shape[1])
    for row, label in zip(rows.split(step), labels.split(step)):
        scores[row, label] = _log_odds(logits[row], label, weights[label])[0].sigmoid()
    return scores.clamp(max=1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
