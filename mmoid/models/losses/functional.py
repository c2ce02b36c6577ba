"""Concurrent softmax as pure functions (Sec. 4.1.2 of the paper, Eq. 3-5).

Shapes: N rows (boxes), M channels, background included. ``rates[i, j]`` is r_ij, the probability that an object of
class i is also labelled j; the diagonal is ignored (r_ii = 0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PAIR_ELEMENTS = 1 << 24
"""Bounds the memory of what is computed for (box, label) pairs: 64 MiB in float32 for each array."""

SAFE_DENOMINATOR = 1e-25
"""Below it, terms that underflowed in float32 (each under 1.2e-38, at most some 10^4 of them) could matter."""


def concurrent_softmax_loss(
    logits: Tensor, targets: Tensor, rates: Tensor, class_weight: Tensor | None = None
) -> Tensor:
    """Training loss, Eq. 3: L(b) = - sum over labels i of b of log σ_i, where

    σ_i = e^{z_i} / (Σ_{j≠i} (1 - y_j) (1 - r_ij) e^{z_j} + e^{z_i}).

    Exact for any finite logits: each label's denominator is a log-sum-exp over the classes that may suppress it.

    Args:
        logits: (N, M) floating point. Half precision is computed in float32.
        targets: (N, M) bool, the label set of each row. A row without labels has loss 0.
        rates: (M, M) in [0, 1].
        class_weight: (M,) factor w_i of the term of label i. None: 1.

    Returns:
        (N,) losses, float32 (float64 for float64 logits). Differentiable once, by the logits.
    """
    return _ConcurrentSoftmaxLoss.apply(_at_least_float32(logits), targets.bool(), rates, class_weight)


class _ConcurrentSoftmaxLoss(torch.autograd.Function):
    """Computes the gradient (Eq. 4) along with the loss.

    A label that is alone in its row and whose class is concurrent with none, such as background, is ordinary
    cross-entropy; so are most rows, and one softmax over all rows serves them. For the other labels the few arrays that
    Eq. 3 and Eq. 4 share are made once and worked on in place: what autograd would keep of them is several times more.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, rates: Tensor, class_weight: Tensor | None) -> Tensor:
        rows, labels = targets.nonzero(as_tuple=True)
        weight = None if class_weight is None else class_weight.to(logits.dtype)[labels]
        plain = _is_cross_entropy(rows, labels, rates, len(logits))
        log_scores = logits.log_softmax(dim=1)
        losses = logits.new_zeros(len(logits))
        row, label = rows[plain], labels[plain]
        losses[row] = -log_scores[row, label]
        gradient = log_scores.exp_()
        gradient[row, label] -= 1
        if weight is not None:
            losses[row] *= weight[plain]
            gradient[row] *= weight[plain, None]
        is_plain: Tensor = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        is_plain[row] = True
        gradient.index_fill_(0, (~is_plain).nonzero().squeeze(1), 0)
        step = max(1, PAIR_ELEMENTS // max(1, logits.shape[1]))
        pairs = (~plain).nonzero().squeeze(1)
        for part in pairs.split(step):
            row, label = rows[part], labels[part]
            pair_losses, pair_gradient = _pairs(logits[row], targets[row], label, rates)
            if weight is not None:
                pair_losses *= weight[part]
                pair_gradient *= weight[part, None]
            losses.index_add_(0, row, pair_losses)
            gradient.index_add_(0, row, pair_gradient)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_losses: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_losses[:, None], None, None, None


def _is_cross_entropy(rows: Tensor, labels: Tensor, rates: Tensor, num_rows: int) -> Tensor:
    """(P,) bool: labels that are alone in their row and whose class is concurrent with none."""
    present, which = labels.unique(return_inverse=True)
    concurrent = rates[present] > 0
    concurrent[torch.arange(len(present), device=rates.device), present] = False  # r_ii = 0
    return (rows.bincount(minlength=num_rows)[rows] == 1) & ~concurrent.any(dim=1)[which]


def _pairs(logits: Tensor, targets: Tensor, labels: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (P,) and gradient (P, M) of P (box, label) pairs: - log σ_i, and its derivative by the logits of the box.

    Args:
        logits: (P, M) of the pair's box. Overwritten.
        targets: (P, M) bool, the label set of the pair's box.
        labels: (P,) the pair's label i.
        rates: (M, M).
    """
    own = labels[:, None]
    own_logits = logits.gather(1, own)
    weights = rates[labels].to(logits.dtype).neg_().add_(1)  # (1 - r_ij)
    weights.masked_fill_(targets, 0)  # (1 - y_j)
    weights.scatter_(1, own, 1)
    logits.masked_fill_(weights == 0, -torch.inf)
    largest = logits.amax(dim=1, keepdim=True)  # finite: the label's own logit is among them
    terms = logits.sub_(largest).exp_().mul_(weights)
    total = terms.sum(dim=1, keepdim=True)
    losses = total.log() + (largest - own_logits)
    gradient = terms.div_(total)
    gradient.scatter_add_(1, own, -torch.ones_like(own_logits))
    return losses.squeeze(1), gradient


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
    scores = exponentials / denominators.clamp(min=SAFE_DENOMINATOR)
    # Where the largest logits are concurrent with class i, nothing that was not lost to underflow is left to divide by.
    rows, labels = (denominators < SAFE_DENOMINATOR).nonzero(as_tuple=True)
    step = max(1, PAIR_ELEMENTS // logits.shape[1])
    for row, label in zip(rows.split(step), labels.split(step)):
        no_labels = torch.zeros_like(logits[row], dtype=torch.bool)
        scores[row, label] = _pairs(logits[row], no_labels, label, rates)[0].neg_().exp_()
    return scores.clamp(max=1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
