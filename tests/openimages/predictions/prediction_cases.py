"""Predictions made of random rows, for tests that count them by hand."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.predictions.prediction_store import Detections, PredictionStore, write_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import LABEL_NAMES

CLASSES = ClassNames(LABEL_NAMES)
NAMES = dict(label_names=LABEL_NAMES, class_names=[name.removeprefix('/m/').title() for name in LABEL_NAMES])


class Row(NamedTuple):
    """One detection: image, class index, score, xmin, ymin, xmax, ymax."""

    image: str
    label: int
    score: float
    box: tuple[float, float, float, float]


def random_rows(rng: np.random.Generator, images: int = 6, per_image: int = 12, classes: int = 5) -> list[Row]:
    """Detections that crowd around a few places, best first within an image; some images have none."""
    rows = []
    for image in range(images):
        count = int(rng.integers(0, per_image + 1))
        places = rng.uniform(0, 0.6, (3, 2))
        for score in sorted(rng.random(count).astype(np.float32).tolist(), reverse=True):
            low = places[rng.integers(3)] + rng.normal(0, 0.03, 2)
            size = 0.25 + rng.normal(0, 0.03, 2)
            box = tuple(np.clip(np.concatenate([low, low + size]), 0, 1).tolist())
            rows.append(Row(f'image{image}', int(rng.integers(classes)), score, box))
    return rows


def image_names(images: int = 6) -> list[str]:
    return [f'image{image}' for image in range(images)]


def columns(rows: list[Row], image_ids: list[str]) -> dict[str, Any]:
    """Arguments of ``write_predictions``: rows in the given order, image after image as listed."""
    rows = sorted(rows, key=lambda row: image_ids.index(row.image))
    return dict(
        image_ids=image_ids,
        detections_per_image=np.array([sum(row.image == name for row in rows) for name in image_ids], dtype=int),
        label=np.array([row.label for row in rows], dtype=int),
        score=np.array([row.score for row in rows]),
        box=np.array([row.box for row in rows]).reshape(-1, 4),
    )


def make_store(folder: Path, rows: list[Row], image_ids: list[str], label_names=LABEL_NAMES) -> PredictionStore:
    """Rows in the given order, image after image as listed."""
    class_names = [name.removeprefix('/m/').title() for name in label_names]
    names = dict(label_names=label_names, class_names=class_names)
    write_predictions(folder, **columns(rows, image_ids), **names, overwrite=True)
    return PredictionStore(folder)


def write_for(annotations: AnnotationStore, folder: Path, found: Detections) -> PredictionStore:
    """Detections on the images of a store, with its classes."""
    ids = annotations.image_ids()
    return make_store(folder, [Row(ids[image], *row) for image, *row in zip(*found)], ids, annotations.label_names)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_csv(rows: list[Row]) -> str:
    """The format with a row for each detection."""
    lines = [
        f'{row.image},{LABEL_NAMES[row.label]},{row.score!r},{row.box[0]!r},{row.box[2]!r},{row.box[1]!r},{row.box[3]!r}\n'
        for row in rows
    ]
    return 'ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n' + ''.join(lines)


def submission_csv(rows: list[Row], image_ids: list[str]) -> str:
    """The format with a row for each image."""
    lines = []
    for name in image_ids:
        own = [row for row in rows if row.image == name]
        words = [f'{LABEL_NAMES[row.label]} {row.score!r} {" ".join(map(repr, row.box))}' for row in own]
        lines.append(f'{name},{" ".join(words)}\n')
    return 'ImageId,PredictionString\n' + ''.join(lines)


def rows_of(predictions) -> list[Row]:
    """Back to rows, image after image."""
    image = np.repeat(predictions.image_ids(), np.diff(predictions.detection_stop, prepend=0)).tolist()
    label = [LABEL_NAMES.index(predictions.label_names[k]) for k in predictions.label]
    boxes = [tuple(box) for box in predictions.box.tolist()]
    return [Row(*row) for row in zip(image, label, predictions.score.tolist(), boxes)]
