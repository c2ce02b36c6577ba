"""Disjoint subsets of the images that keep the class ratios, like the mini set of Sec. 5.1 of the paper.

Iterative stratification (Sechidis et al., "On the Stratification of Multi-Label Data", ECML PKDD 2011): the label with
the fewest remaining images is dealt first; each subset gets as many of its images as it still needs. All images of a
label are dealt at once, in the order of their other labels. At the end, a few images move so that sizes are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array, vstack

from mmoid.openimages.ragged import gather_rows
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import Progress, no_progress


def split_images(
    store: AnnotationStore, sizes: Sequence[int], seed: int = 0, progress: Progress = no_progress
) -> list[np.ndarray]:
    """Draws disjoint subsets in which each class has its share of images, as annotated and with descendants.

    Image-level labels are ignored. The same store, sizes and seed give the same subsets. Progress is in classes.

    Returns:
        (size,) ascending image indices for each of the sizes.

    Raises:
        ValueError: A size is negative, or there are too few images.
    """
    parents = np.flatnonzero(~store.hierarchy.is_leaf)
    by_label = vstack([store.images_by_class(False), store.images_by_class(True)[parents]])
    return stratify(csr_array(by_label.T), sizes, seed, progress)


def stratify(
    labels: csr_array, sizes: Sequence[int], seed: int = 0, progress: Progress = no_progress
) -> list[np.ndarray]:
    """:func:`split_images` on an (N, L) matrix: the stored entries of a row are the labels of an image."""
    num_images, num_labels = labels.shape
    if min(sizes, default=0) < 0 or sum(sizes) > num_images:
        raise ValueError(f'sizes must be >= 0 with a sum of at most {num_images} images, got {list(sizes)}')
    rng = np.random.default_rng(seed)
    targets = np.array([*sizes, num_images - sum(sizes)])  # the last subset is the rest
    left = np.bincount(labels.indices, minlength=num_labels)
    wanted = np.outer(targets / num_images, left)
    by_label = labels.tocsc()
    order = _rank_by_rarity(labels, left, rng)
    subset = np.full(num_images, -1)
    dealt = []
    while left.any():
        label = int(np.where(left > 0, left, num_images + 1).argmin())
        images = by_label.indices[by_label.indptr[label] : by_label.indptr[label + 1]]
        images = images[subset[images] < 0]
        images = images[np.argsort(order[images])]
        subset[images] = _deal(wanted[:, label], len(images), rng)
        for k in range(len(targets)):
            taken = np.bincount(labels[images[subset[images] == k]].indices, minlength=num_labels)
            wanted[k] -= taken
            left -= taken
        dealt.append(images)
        progress('dealing classes', num_labels - np.count_nonzero(left), num_labels)
    unlabelled = np.flatnonzero(subset < 0)
    missing = targets - np.bincount(subset[subset >= 0], minlength=len(targets))
    subset[unlabelled] = _deal(missing.astype(float), len(unlabelled), rng)
    _exchange(subset, np.concatenate([*dealt, rng.permutation(unlabelled)]), targets)
    return [np.flatnonzero(subset == k) for k in range(len(sizes))]


def _rank_by_rarity(labels: csr_array, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) position of each image in the order of its three rarest labels; equal images in random order."""
    rarity = np.argsort(np.argsort(counts, kind='stable'))
    ranked = csr_array((labels.data, rarity[labels.indices], labels.indptr), shape=labels.shape, copy=True)
    ranked.sort_indices()
    first, length = ranked.indptr[:-1], np.diff(ranked.indptr)
    keys = [np.full(labels.shape[0], labels.shape[1]) for _ in range(3)]
    for level, key in enumerate(keys):
        key[length > level] = ranked.indices[first[length > level] + level]
    order = np.lexsort([rng.random(labels.shape[0]), *keys[::-1]])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _deal(wanted: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) subset of each of ``count`` images: evenly spread, in proportion to what the subsets still need."""
    share = np.maximum(wanted, 0)
    share = share if share.any() else np.arange(len(wanted)) == len(wanted) - 1
    share = share / share.sum()
    # Systematic sampling of each subset but the rest, which gets what is left.
    subset = np.full(count, len(share) - 1)
    for k in range(len(share) - 1):
        free = np.flatnonzero(subset == len(share) - 1)
        portion = share[k] / share[k:].sum() if share[k] else 0.0
        steps = np.floor(rng.random() + portion * np.arange(len(free) + 1))
        subset[free[np.diff(steps) > 0]] = k
    return subset


def _exchange(subset: np.ndarray, dealt: np.ndarray, targets: np.ndarray) -> None:
    """Moves the images dealt last, whose labels are frequent, until each subset has its size."""
    surplus = np.bincount(subset, minlength=len(targets)) - targets
    for k in np.flatnonzero(surplus[:-1] > 0):
        subset[dealt[subset[dealt] == k][-surplus[k] :]] = len(targets) - 1
    for k in np.flatnonzero(surplus[:-1] < 0):
        subset[dealt[subset[dealt] == len(targets) - 1][surplus[k] :]] = k


def image_deviation(
    store: AnnotationStore, images: np.ndarray, expand_hierarchy: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images of each class among (n,) ``images``: (C,) float64 with the ratios of the store, and (C,) int64 counted."""
    expected = store.class_image_counts(expand_hierarchy) * len(images) / store.num_images
    return expected, store.images_by_class(expand_hierarchy)[:, images].sum(axis=1)


def box_deviation(store: AnnotationStore, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of each class on (n,) ``images``, as :func:`image_deviation` does."""
    label = store.box_label[gather_rows(store.box_stop, images)[1]]
    expected = store.class_box_counts * len(images) / store.num_images
    return expected, np.bincount(label, minlength=store.num_classes)
