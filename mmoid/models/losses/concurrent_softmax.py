"""Concurrent softmax (Sec. 4.1.2 of the paper, Eq. 3-5), as functions and as a module; other softmax losses of Table 1.

Shapes: N rows (boxes), M channels with background last, C = M - 1 classes. ``rates[i, j]`` is r_ij, the probability
that an object of class i is also labelled j. The diagonal is ignored (r_ii = 0). Rates may be sparse (COO, coalesced).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmoid.models.class_lists import rows_of, sparse_matrix
from mmoid.models.losses.base import LabelSetLoss, RatesLoss

LOG_ZERO = -1e38
"""Stands for log(0) = -inf, because -inf - -inf is NaN in the gradient of a row without competitors."""

SMALL = 1e-12
"""Above a denominator of SMALL, float32 loses only terms that are below 1e-26 of it."""

SMALL_DIFFERENCE = 1e-6
"""A difference of float64 sums that is above this share of them has a relative error below 1e-6."""

ELEMENTS_AT_ONCE = 1 << 24
"""Bounds the memory of :func:`concurrent_softmax`: 64 MiB in float32."""


def concurrent_softmax_loss(logits: Tensor, targets: Tensor, rates: Tensor) -> Tensor:
    """Training loss, Eq. 3: L(b) = - sum over labels i of b of log σ_i, where

    σ_i = e^{z_i} / (Σ_{j≠i} (1 - y_j) (1 - r_ij) e^{z_j} + e^{z_i}).

    Args:
        logits: (N, M) finite floating point. Half precision is computed in float32.
        targets: (N, M) bool, the label set of each row. A row without labels has loss 0.
        rates: (M, M) in [0, 1].

    Returns:
        (N,) losses >= 0, float32 (float64 for float64 logits).

    Examples:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
        >>> targets = torch.tensor([[True, True, False]])
        >>> concurrent_softmax_loss(logits, targets, torch.zeros(3, 3))
        tensor([0.4402])
    """
    logits = _at_least_float32(logits)
    return _loss_of_rows(logits, targets, rates.to(logits.dtype))


def concurrent_softmax(logits: Tensor, rates: Tensor) -> Tensor:
    """Scores at test time, Eq. 5: σ_i = e^{z_i} / Σ_j (1 - r_ij) e^{z_j}.

    Concurrent classes do not suppress each other, so a row may sum to more than 1.

    Args:
        logits: (N, M) finite floating point. Half precision is computed in float32.
        rates: (M, M) in [0, 1].

    Returns:
        (N, M) in [0, 1], float32 (float64 for float64 logits).

    Examples:
        >>> rates = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> concurrent_softmax(torch.tensor([[5.0, 5.0, 0.0]]), rates)
        tensor([[0.9933, 0.9933, 0.0034]])
    """
    logits = _at_least_float32(logits)
    rates = rates.to(logits.dtype)
    exponentials = (logits - logits.amax(dim=1, keepdim=True)).exp()
    small: Tensor | float = SMALL
    with torch.autocast(logits.device.type, enabled=False):  # it would compute the product in half precision
        if rates.is_sparse:
            i, j = rates.indices()
            values = rates.values().double().masked_fill(i == j, 0)
            concurrent = sparse_matrix(rates.indices(), values, len(rates))
            # In float64, as the difference cancels where class i is concurrent with the largest logits.
            total = exponentials.sum(dim=1, keepdim=True, dtype=torch.float64)
            # A strided operand or result would take several times as long as its copy.
            of_classes = concurrent @ exponentials.T.contiguous().double()
            denominators = (total - of_classes.T).to(logits.dtype).contiguous()
            small = SMALL_DIFFERENCE * total
        else:
            denominators = exponentials @ (1 - rates).fill_diagonal_(1).T
    scores = exponentials / denominators.clamp(min=SMALL)
    # If class i is concurrent with the largest logits, the rest of its denominator may have underflowed.
    rows, labels = (denominators < small).nonzero(as_tuple=True)
    pairs_at_once = max(1, ELEMENTS_AT_ONCE // logits.shape[1])
    for row, label in zip(rows.split(pairs_at_once), labels.split(pairs_at_once)):
        scores[row, label] = _log_odds(logits, row, label, log_suppression(rates, label)).sigmoid()
    return scores.clamp(max=1)


def log_suppression(rates: Tensor, labels: Tensor) -> Tensor:
    """(P, M) log(1 - r_ij), how strongly class j suppresses the class i of (P,) ``labels``.

    LOG_ZERO for r_ij = 1 and for i = j. Only these rows of the (M, M) rates are computed.
    """
    rows = rows_of(rates, labels).neg_().log1p_().clamp_(min=LOG_ZERO)
    return rows.scatter_(1, labels[:, None], LOG_ZERO)


def _loss_of_rows(
    logits: Tensor, targets: Tensor, rates: Tensor, class_weight: Tensor | None = None, judged: Tensor | None = None
) -> Tensor:
    """(N,) losses from (N, M) float logits, (N, M) bool label sets and (M, M) rates.

    Labels of one box do not compete with each other, and neither do classes that are not ``judged`` (N, M).
    """
    rows, labels = targets.nonzero(as_tuple=True)
    excused = targets if judged is None else targets | ~judged
    competing = log_suppression(rates, labels).masked_fill_(excused[rows], LOG_ZERO)
    losses = -F.logsigmoid(_log_odds(logits, rows, labels, competing))
    if class_weight is not None:
        losses = losses * class_weight[labels]
    return torch.zeros_like(logits[:, 0]).index_add(0, rows, losses)


def _log_odds(logits: Tensor, rows: Tensor, labels: Tensor, suppression: Tensor) -> Tensor:
    """z_i - log Σ_j e^{z_j + log(1 - r_ij)} of P pairs of a row of (N, M) logits and its label i; σ_i is its sigmoid.

    (P, M) ``suppression`` is log(1 - r_ij) of the classes j that compete with i, and LOG_ZERO for the others.
    """
    values = logits[rows]
    # Without the largest competitor as a common shift, log(1 - r_ij) would be rounded to the digits of large logits.
    shift = (values.detach() + suppression).amax(dim=1, keepdim=True).clamp(min=LOG_ZERO)
    others = (values - shift + suppression).logsumexp(dim=1)
    return logits[rows, labels] - shift.squeeze(1) - others


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


@MODELS.register_module()
class ConcurrentSoftmaxLoss(RatesLoss):
    """Softmax in which classes that occur together do not suppress each other (Sec. 4.1 of the paper, Eq. 3-5).

    The paper says that r_ij "is set 0" for a leaf and its parent. It argues that their scores then "would not suppress
    each other", which needs 1 - r_ij = 0. The default follows the argument; ``hierarchy_rate=0.0`` is the literal
    reading.

    Args:
        num_classes, concurrent_rates, hierarchy, hierarchy_rate, rates_from: See :class:`RatesLoss`.
        class_weight, classes, loss_weight, reduction: See :class:`RatesLoss`.

    Examples:
        >>> loss = ConcurrentSoftmaxLoss(num_classes=2, concurrent_rates=[[0, 1], [1, 0]])
        >>> loss(torch.tensor([[4.0, 4.0, 0.0]]), torch.tensor([[True, False]]))
        tensor(0.0181)
    """

    def row_losses(self, cls_score: Tensor, targets: Tensor, judged: Tensor | None) -> Tensor:
        logits = _at_least_float32(cls_score)
        return _loss_of_rows(logits, targets, self.class_buffer(), self.class_weight, judged)

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) scores of Eq. 5; a row may sum to more than 1."""
        self.require_class_files()
        return concurrent_softmax(cls_score, self.class_buffer())


@MODELS.register_module()
class DistCELoss(LabelSetLoss):
    """Cross-entropy with target 1 / k for each of the k labels of a row: L(b) = - 1/k Σ_{i∈K} log softmax_i.

    "dist-CE" in Table 1; Mahajan et al., "Exploring the Limits of Weakly Supervised Pretraining", ECCV 2018, Sec. 2.3.
    The arguments are those of :class:`LabelSetLoss`.
    """

    def row_losses(self, cls_score: Tensor, targets: Tensor, judged: Tensor | None) -> Tensor:
        logits = cls_score.float()
        if judged is not None:
            logits = logits.masked_fill(~(judged | targets), LOG_ZERO)
        shares = targets / targets.sum(dim=1, keepdim=True)
        return F.cross_entropy(logits, shares, weight=self.class_weight, reduction='none')

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) softmax scores; every row sums to 1."""
        return cls_score.float().softmax(dim=1)


@MODELS.register_module()
class SoftmaxLoss(DistCELoss):
    """Cross-entropy with the one label that mmdet assigns to a proposal: the baseline.

    The arguments are those of :class:`LabelSetLoss`.
    """

    uses_label_sets = False
