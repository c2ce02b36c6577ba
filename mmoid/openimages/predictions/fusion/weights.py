"""Weights of each model on each class, from a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.csv_files import open_text


def read_class_weights(path: str | Path, num_sets: int) -> dict[str, tuple[float, ...]]:
    """Reads a CSV ``LabelName,<first set>,<second set>,...`` or a JSON object ``{LabelName: [weights]}``.

    Such a table is made from the AP by class of each model (``tools/analysis_tools/evaluate_predictions.py --table``). Classes that it
    does not name keep the general weights.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.json``.
        num_sets: M, in the order of the weights.

    Returns:
        M weights >= 0 by MID; one of each M is above 0.

    Raises:
        AnnotationError: By file and line, or by class in a JSON.
    """
    return _read_json(path, num_sets) if str(path).endswith('.json') else _read_csv(path, num_sets)


def _read_csv(path: str | Path, num_sets: int) -> dict[str, tuple[float, ...]]:
    weights: dict[str, tuple[float, ...]] = {}
    with open_text(path) as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        if header[:1] != ['LabelName']:
            raise AnnotationError(f"{path}:1: expected the header 'LabelName' and a name for each set, got {header}")
        for fields in reader:
            if fields:
                name, place = fields[0], f'{path}:{reader.line_num}'
                if name in weights:
                    raise AnnotationError(f'{place}: class {name!r} has weights on an earlier line already')
                weights[name] = _checked(place, fields[1:], num_sets)
    return weights


def _read_json(path: str | Path, num_sets: int) -> dict[str, tuple[float, ...]]:
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise AnnotationError(f'{path}: cannot be read as JSON ({error})') from error
    if not isinstance(values, dict):
        raise AnnotationError(f'{path}: expected an object, {{LabelName: [weight of each set]}}')
    return {name: _checked(f'{path}: {name}', row, num_sets) for name, row in values.items()}


def _checked(place: str, values: object, num_sets: int) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != num_sets:
        raise AnnotationError(f'{place}: expected one weight for each of the {num_sets} sets, got {values!r}')
    try:
        weights = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise AnnotationError(f'{place}: {error}') from error
    if not all(0 <= weight < float('inf') for weight in weights) or not any(weights):
        raise AnnotationError(f'{place}: weights must be at least 0 and one of them above it, got {values!r}')
    return weights
