"""Disjoint subsets of the images that keep the class ratios, like the mini set of the paper's Sec. 5.1.

1. *Strata.* Images are ordered by the rarest class they hold, then by their second rarest, and so on; images with the
   same classes in random order; images without boxes last.
2. *Systematic sampling.* For n of N images the order is cut into n cells of N / n neighbours, and each gives one image.
   So a class gets its share, to within two, of the images in which it is the rarest, whatever comes after.
3. *Exchange.* Frequent classes ride along with all the strata, and their errors add up. So some cells give another of
   their images (:mod:`mmoid.openimages.statistics.exchange`), until no such exchange brings the classes' counts closer to their
   shares.

For iterative stratification, which deals out image by image, see Sechidis, Tsoumakas, Vlahavas, "On the
Stratification of Multi-Label Data", ECML PKDD 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.ragged import row_and_position
from mmoid.openimages.statistics.exchange import pick_one_of_each
from mmoid.openimages.store.annotation_store import AnnotationStore

UNIT = 256
"""One image, in the integers that the exchange reckons with."""
BOX_WEIGHT = 0.2
"""What the boxes of an ordinary image of a class count for beside the image itself: images come first."""
CANDIDATES = 500_000
"""Images that a pass of the exchange looks at; bounds its time and memory."""
PASSES = 4


def split_images(store: AnnotationStore, sizes: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Draws disjoint subsets in which each class has the share of images and of boxes that it has in the whole.

    Images are counted for their boxes' classes and for the ancestors of these. Image-level labels have no say.

    Args:
        store: What to draw from.
        sizes: Images of each subset; together at most all.
        seed: Of everything random here. The same store, sizes and seed give the same subsets.

    Returns:
        For each size, so many image indices, ascending.

    Raises:
        AnnotationError: A size or the seed is negative, or the sizes are more than there are images.
    """
    counts = boxes_per_image(store.box_stop, store.box_label, store.num_classes)
    return balanced_subsets(counts, sizes, seed, store.hierarchy.ancestor_matrix)


def boxes_per_image(box_stop: np.ndarray, box_label: np.ndarray, num_classes: int) -> csr_matrix:
    """(N, C) int32: boxes of every class in every image, from (N,) ends of images and (B,) class indices."""
    ones = np.ones(len(box_label), dtype=np.int32)
    begin_and_ends = np.concatenate([[0], box_stop])
    counts = csr_matrix((ones, np.array(box_label), begin_and_ends), shape=(len(box_stop), num_classes))
    counts.sum_duplicates()
    return counts


def balanced_subsets(
    counts: csr_matrix, sizes: Sequence[int], seed: int = 0, ancestors: np.ndarray | None = None
) -> list[np.ndarray]:
    """:func:`split_images` on arrays.

    Args:
        counts: (N, C) boxes of every class in every image.
        sizes: As there.
        seed: As there.
        ancestors: (C, C) bool; ``[i, j]`` is True where an image with class i counts as one with class j too.
    """
    num_images = counts.shape[0]
    _require_sizes(sizes, num_images, seed)
    rng = np.random.default_rng(seed)
    features = _features(counts, ancestors)
    total = _sum(features)
    pool = _order_by_rarity(counts, rng)
    subsets = []
    for size in sizes:
        target = np.rint(total * (size / num_images)).astype(np.int64) if size else total
        if 2 * size <= len(pool):
            taken = _sample(features, pool, size, target, rng)
        else:  # cells need two images or more: choose those that stay behind
            taken = ~_sample(features, pool, len(pool) - size, _sum(features[pool]) - target, rng)
        subsets.append(np.sort(pool[taken]))
        pool = pool[~taken]
    return subsets


def _require_sizes(sizes: Sequence[int], num_images: int, seed: int) -> None:
    if seed < 0:
        raise AnnotationError(f'seed: must be an integer >= 0, got {seed}')
    for i, size in enumerate(sizes):
        if size < 0 or size != int(size):
            raise AnnotationError(f'sizes[{i}]: must be an integer >= 0, got {size}')
    if sum(sizes) > num_images:
        text = ' + '.join(f'{size:,}' for size in sizes)
        raise AnnotationError(f'sizes: {text} images were asked for, but there are {num_images:,}; ask for fewer')


def _features(counts: csr_matrix, ancestors: np.ndarray | None) -> csr_matrix:
    """(N, F) int32: what the subsets shall have their share of, a row for each image.

    Columns: images of each class; its boxes, in images of ordinary box count; images without boxes; images of each
    class that has descendants, counted for these too.
    """
    shape, indices, indptr = counts.shape, counts.indices, counts.indptr
    presence = csr_matrix((np.full(counts.nnz, UNIT, dtype=np.int32), indices, indptr), shape=shape)
    boxes = np.bincount(indices, weights=counts.data, minlength=shape[1])
    images = np.bincount(indices, minlength=shape[1])
    image_per_box = images / np.maximum(boxes, 1)
    worth = np.rint(UNIT * BOX_WEIGHT * counts.data * image_per_box[indices]).astype(np.int32)
    empty = csr_matrix(np.where(np.diff(indptr) == 0, UNIT, 0).astype(np.int32)[:, None])
    blocks = [presence, csr_matrix((worth, indices, indptr), shape=shape), empty]
    if ancestors is not None and ancestors.any():
        closure = (ancestors | np.eye(len(ancestors), dtype=bool))[:, ancestors.any(axis=0)]
        expanded = presence @ csr_matrix(closure.astype(np.int32))
        expanded.data[:] = UNIT
        blocks.append(expanded)
    return hstack(blocks, format='csr')


def _order_by_rarity(counts: csr_matrix, rng: np.random.Generator) -> np.ndarray:
    """(N,) image indices: by rarest class, then second rarest, ...; ties in random order, no class at all last."""
    num_images, num_classes = counts.shape
    images_of_class = np.bincount(counts.indices, minlength=num_classes)
    rank = np.empty(num_classes, dtype=np.int32)
    rank[np.argsort(images_of_class, kind='stable')] = np.arange(num_classes)
    # Sorted in place, hence copies.
    ranked = csr_matrix((counts.data, rank[counts.indices], counts.indptr), shape=counts.shape, copy=True)
    ranked.sort_indices()
    classes_of_image = np.diff(ranked.indptr)
    bits = num_classes.bit_length()
    key = np.zeros(num_images, dtype=np.int64)
    for level in range(63 // bits):  # as many classes as one integer holds: 7 of 500
        present = classes_of_image > level
        digit = np.full(num_images, num_classes)
        digit[present] = ranked.indices[ranked.indptr[:-1][present] + level]
        key = (key << bits) | digit
    shuffled = rng.permutation(num_images)
    return shuffled[np.argsort(key[shuffled], kind='stable')]


def _sample(
    features: csr_matrix, pool: np.ndarray, count: int, target: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(len(pool),) bool: one image of each of ``count`` cells, their features in all close to ``target``."""
    taken = np.zeros(len(pool), dtype=bool)
    if count == 0:
        return taken
    edge = np.arange(count + 1) * len(pool) // count
    width = np.diff(edge)
    place = edge[:-1] + (rng.random() * width).astype(np.int64)
    for turn in range(PASSES):
        free: np.ndarray = np.arange(count)
        if 2 * count > CANDIDATES:
            free = np.sort(rng.choice(count, CANDIDATES // 2, replace=False))
        others = np.minimum(width[free] - 1, max(1, CANDIDATES // len(free) - 1))
        cell, nth = row_and_position(1 + others)
        # The present image of the cell first, then those that follow it, going round; other ones in each pass.
        around = np.maximum(width[free] - 1, 1)[cell]
        step = np.where(nth > 0, 1 + (nth - 1 + turn * others[cell]) % around, 0)
        begin = edge[free]
        candidates = begin[cell] + ((place[free] - begin)[cell] + step) % width[free][cell]
        rest = target - _sum(features[pool[np.delete(place, free)]])
        place[free] = candidates[pick_one_of_each(features[pool[candidates]], 1 + others, rest)]
    taken[place] = True
    return taken


def _sum(features: csr_matrix) -> np.ndarray:
    return np.asarray(features.sum(axis=0, dtype=np.int64)).ravel()
