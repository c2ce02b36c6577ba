"""MatchedSets: the predictions of several models, matched by ImageID and MID."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.csv_files import convert_predictions
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.utils.progress import Progress, no_progress


@dataclass(frozen=True, eq=False)
class MatchedSets:
    """M sets of predictions under common image and class indices. Pickles without the predictions themselves.

    Attributes:
        paths: M folders.
        image_ids: N ids of the result.
        label_names: MIDs of the C classes of the result.
        class_names: Their display names.
        image: (M, N) int64 index of an image in each set; -1: the model was not run on it, and has no vote there.
        label: M arrays (K_m,) int64: class of the result for each class of the set.
        weight: (M, C) float64; 0: the model does not know the class, or is not to be asked: it has no vote there.
        weighted: Whether weights were given; without them scores are not scaled.
        hierarchy: Over the classes of the result.
        expand: When ancestors are added: to the detections of each model, or to the result.
    """

    paths: tuple[Path, ...]
    image_ids: tuple[str, ...]
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    image: np.ndarray
    label: tuple[np.ndarray, ...]
    weight: np.ndarray
    weighted: bool
    hierarchy: ClassHierarchy | None = None
    expand: Literal['before', 'after'] | None = None


def open_sets(
    paths: Sequence[str | Path],
    inputs: str | Path,
    classes: Sequence[tuple[str, str]] | None = None,
    progress: Progress = no_progress,
) -> list[PredictionStore]:
    """Opens the sets; of CSV files it makes folders, which many processes can map.

    Args:
        paths: Folders or CSV files.
        inputs: Where the new folders go. One that is there already, of the very same file, is taken as it is.
        classes: (MID, display name) of what the models of the CSV files know; None: the classes that each file names.
        progress: Told how many sets are open.
    """
    label_names, class_names = zip(*classes) if classes else (None, None)
    stores = []
    for done, path in enumerate(map(Path, paths)):
        progress('opening sets', done, len(paths))
        folder = path
        if path.is_file():
            status = path.stat()
            identity = repr((str(path.resolve()), status.st_size, status.st_mtime_ns, classes))
            folder = Path(inputs) / hashlib.sha256(identity.encode()).hexdigest()[:16]
            if not folder.is_dir():
                convert_predictions(path, folder, label_names, class_names)
        stores.append(PredictionStore(folder))
    progress('opening sets', len(paths), len(paths))
    return stores


def match_sets(
    stores: Sequence[PredictionStore],
    *,
    weights: Sequence[float] | None = None,
    class_weights: Mapping[str, Sequence[float]] | None = None,
    missing: Literal['error', 'drop', 'keep'] = 'error',
    hierarchy: dict | None = None,
    expand: Literal['before', 'after'] | None = None,
) -> MatchedSets:
    """Matches images by id and classes by MID, whatever their order in each set.

    Images and classes of the result stand in the order of the first set, followed by those that only later ones have.

    Args:
        stores: At least one.
        weights: One above 0 for each set; None: all alike.
        class_weights: MID -> one weight >= 0 for each set, in place of ``weights`` for this class. 0: the set has no
            vote on it.
        missing: What to do with images that are not in all sets: raise, leave them out, or keep them as fused from the
            sets that have them.
        hierarchy: The nested hierarchy, for ``expand``.
        expand: ``before``: the ancestors of every detection are added first, so that a model that says Apple votes for
            Fruit too; of equal boxes of a class, which that makes, a model keeps the best. ``after``: the result is
            made consistent: where it has a detection, each ancestor has one on the same object with at least its
            score. For that, classes with descendants go through NMS once more.

    Raises:
        AnnotationError: Images missing, weights that do not fit, no hierarchy for ``expand``.
    """
    if not stores:
        raise AnnotationError('predictions: at least one set is needed')
    label_names, class_names = _classes(stores)
    index = {name: i for i, name in enumerate(label_names)}
    label = tuple(np.array([index[name] for name in store.label_names], dtype=np.int64) for store in stores)
    graph = None
    if expand is not None:
        if hierarchy is None:
            raise AnnotationError('expand: needs the hierarchy of the classes')
        graph = ClassHierarchy(hierarchy, label_names)
    image_ids, image = _images(stores, missing)
    known = np.zeros((len(stores), len(label_names)), dtype=bool)
    for row, own in zip(known, label):
        row[own] = True
        if expand == 'before' and graph is not None:
            row |= graph.ancestor_matrix[own].any(axis=0)
    weight = np.where(known, _weights(len(stores), label_names, weights, class_weights), 0.0)
    if not weight.any(axis=0).all():
        name = label_names[int(np.argmin(weight.any(axis=0)))]
        raise AnnotationError(f'class_weights[{name!r}]: is above 0 only for sets that do not have this class')
    return MatchedSets(
        paths=tuple(store.path for store in stores),
        image_ids=image_ids,
        label_names=label_names,
        class_names=class_names,
        image=image,
        label=label,
        weight=weight,
        weighted=weights is not None or class_weights is not None,
        hierarchy=graph,
        expand=expand,
    )


def _classes(stores: Sequence[PredictionStore]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names: dict[str, str] = {}
    for store in stores:
        for mid, name in zip(store.label_names, store.class_names):
            names.setdefault(mid, name)
    return tuple(names), tuple(names.values())


def _images(stores: Sequence[PredictionStore], missing: str) -> tuple[tuple[str, ...], np.ndarray]:
    own = [pa.array(store.image_ids(), pa.string()) for store in stores]
    every = pc.unique(pa.chunked_array(own))
    image = np.stack([
        pc.index_in(every, ids).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) for ids in own
    ])  # fmt: skip
    shared = (image >= 0).all(axis=0)
    if missing == 'error' and not shared.all():
        k = int(np.argmin(shared))
        without = stores[int(np.argmax(image[:, k] < 0))].path
        raise AnnotationError(
            f'{without}: does not have image {every[k].as_py()!r}, which another set has ({int((~shared).sum())} of '
            f'{len(every)} images are not in all sets); run every model on all images, or choose '
            "missing='drop' (--missing drop) or missing='keep' (--missing keep)"
        )
    if missing == 'drop':
        every, image = every.filter(pa.array(shared)), image[:, shared]
    return tuple(every.to_pylist()), image


def _weights(
    count: int,
    label_names: Sequence[str],
    weights: Sequence[float] | None,
    class_weights: Mapping[str, Sequence[float]] | None,
) -> np.ndarray:
    """(M, C) as given."""
    general = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if general.shape != (count,):
        raise AnnotationError(f'weights: expects one for each of the {count} sets, got {len(general)}')
    if not (np.isfinite(general) & (general > 0)).all():
        raise AnnotationError(f'weights: must be above 0, got {general.tolist()}; leave a set of weight 0 out')
    matrix = np.repeat(general[:, None], len(label_names), axis=1)
    index = {name: i for i, name in enumerate(label_names)}
    for name, values in (class_weights or {}).items():
        column = np.asarray(values, dtype=np.float64)
        if name not in index:
            raise AnnotationError(f'class_weights: class {name!r} is in none of the sets')
        if column.shape != (count,):
            raise AnnotationError(
                f'class_weights[{name!r}]: expects one for each of the {count} sets, got {column.size}'
            )
        if not (np.isfinite(column) & (column >= 0)).all() or not column.any():
            raise AnnotationError(f'class_weights[{name!r}]: must be at least 0, one above it, got {column.tolist()}')
        matrix[:, index[name]] = column
    return matrix
