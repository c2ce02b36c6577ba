"""Eq. 3-5 of the paper in float64 with plain loops, for a reader to compare with it.

e^{z_j} / e^{z_i} is taken as e^{z_j - z_i}, and sums of exponentials by their logarithms: the same numbers without
overflow.
"""

import math

import numpy as np


def log_sum(terms):
    """log Σ w e^x of (w, x) pairs; -inf without a positive weight."""
    return np.logaddexp.reduce([math.log(weight) + value for weight, value in terms if weight > 0], initial=-np.inf)


def suppressing(z, y, r, i):
    """(weight, z_j - z_i) of every j, the weight being (1 - y_j) (1 - r_ij), and 0 for i itself."""
    return [(0.0 if j == i else (1 - y[j]) * (1 - r[i][j]), z[j] - z[i]) for j in range(len(z))]


def eq_3(z, y, r, weight=None):
    """L(b), the sum over labels i of -log σ_i = log(1 + Σ (1 - y_j) (1 - r_ij) e^{z_j} / e^{z_i})."""
    labels = [i for i in range(len(z)) if y[i]]
    return sum((weight[i] if weight else 1) * np.logaddexp(0, log_sum(suppressing(z, y, r, i))) for i in labels)


def eq_4(z, y, r, weight=None):
    """Gradient of Eq. 3 by z: the sum over labels i of (share of each j in the denominator of σ_i) - [j = i]."""
    gradient = [0.0] * len(z)
    for i in range(len(z)):
        if not y[i]:
            continue
        factor = weight[i] if weight else 1
        terms = suppressing(z, y, r, i)
        others = log_sum(terms)
        denominator = np.logaddexp(0, others)
        for j, (share, gap) in enumerate(terms):
            gradient[j] += factor * share * math.exp(gap - denominator) if share > 0 else 0.0
        gradient[i] -= factor * math.exp(others - denominator)
    return gradient


def eq_5(z, r):
    nothing = [0] * len(z)
    return [math.exp(-np.logaddexp(0, log_sum(suppressing(z, nothing, r, i)))) for i in range(len(z))]
