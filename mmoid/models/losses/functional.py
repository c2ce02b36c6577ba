"""Concurrent softmax as pure functions (Sec. 4.1.2 of the paper, Eq. 3-5).

Shapes: N rows (boxes), M channels, background included. ``rates[i, j]`` is r_ij, the probability that an object of
class i is also labelled j; the diagonal is ignored (r_ii = 0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAIR_ELEMENTS = 1 << 24
"""Bounds the memory of the exact path of :func:`concurrent_softmax`: 64 MiB in float32."""

SAFE_DENOMINATOR = 1e-25
"""Below it, terms that underflowed in float32 (each under 1.2e-38, at most some 10^4 of them) could matter."""


def concurrent_softmax_loss(logits: Tensor, targets: Tensor, rates: Tensor) -> Tensor:
    """Training loss, Eq. 3: L(b) = - sum over labels i of b of log σ_i, where

    σ_i = e^{z_i} / (Σ_{j≠i} (1 - y_j) (1 - r_ij) e^{z_j} + e^{z_i}).

    Each (box, label) pair is a cross-entropy over the classes that may suppress the label, computed as a masked
    log-sum-exp: exact for any finite logits. Gradient: Eq. 4, by autograd.

    Args:
        logits: (N, M) floating point. Half precision is computed in float32.
        targets: (N, M) bool, the label set of each row. A row without labels has loss 0.
        rates: (M, M) in [0, 1].

    Returns:
        (N,) losses, float32 (float64 for float64 logits).
    """
    logits = _at_least_float32(logits)
    targets = targets.bool()
    # A row with one label whose class is concurrent with none is ordinary cross-entropy, and most rows are
    # background: these are spared the gather below.
    alone = ~rates.bool().fill_diagonal_(False).any(dim=1)
    labels = targets.long().argmax(dim=1)
    plain = (targets.sum(dim=1) == 1) & alone[labels]
    losses = logits[:, 0] * 0  # no rows, or none with a label: still a result that can be differentiated
    plain_rows = plain.nonzero().squeeze(1)
    if len(plain_rows):
        plain_losses = F.cross_entropy(logits[plain_rows], labels[plain_rows], reduction='none')
        losses = losses.index_add(0, plain_rows, plain_losses)
    rows, labels = (targets & ~plain[:, None]).nonzero(as_tuple=True)
    if len(rows):
        masked = logits[rows] + _log_weights(rates, labels, logits.dtype).masked_fill(
            targets[rows] & ~F.one_hot(labels, logits.shape[1]).bool(), -torch.inf
        )
        pair_losses = masked.logsumexp(dim=1) - logits[rows, labels]
        losses = losses.index_add(0, rows, pair_losses)
    return losses


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
        masked = logits[row] + _log_weights(rates, label, logits.dtype)
        scores[row, label] = (logits[row, label] - masked.logsumexp(dim=1)).exp()
    return scores.clamp(max=1)


def _log_weights(rates: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """(P, M) log(1 - r_ij) of each pair's label i; 0 at j = i."""
    weights = torch.log1p(-rates.to(dtype)[labels])
    return weights.scatter(1, labels[:, None], 0.0)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
