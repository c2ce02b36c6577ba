"""PredictionStore -> the challenge's submission CSV, ``ImageId,PredictionString``, written and read back in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.csv_files import PredictionSet
from mmoid.openimages.predictions.submission_rows import SubmissionText, format_rows, image_column_of, submission_texts
from mmoid.openimages.ragged import gather_rows, row_and_position, row_lengths, runs_of_rows
from mmoid.openimages.readers.csv_files import read_columns, read_header
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import Progress, no_progress

DETECTIONS_AT_ONCE = 1 << 17
"""Detections made into text at a time: some 60 MB for each thread."""

DECIMALS = 6
"""Of a coordinate: a thousandth of a pixel in a picture of a thousand."""

Given = TypeVar('Given')
Made = TypeVar('Made')


@dataclass
class SubmissionSummary:
    """What a submission holds, and what of the predictions it does not."""

    images: int = 0
    images_without_detections: int = 0
    images_without_predictions: int = 0
    detections: int = 0
    added_ancestors: int = 0
    below_the_score: int = 0
    above_the_count: int = 0
    boxes_without_area: int = 0
    other_images: int = 0
    bytes: int = 0

    def add(self, part: SubmissionSummary) -> None:
        """Adds the counts of another."""
        for name, count in asdict(part).items():
            setattr(self, name, getattr(self, name) + count)


@dataclass(frozen=True)
class Selection:
    """Which detections are submitted.

    Attributes:
        least_score: Detections below it are left out.
        most_per_image: Best-scored rows of an image that are kept, ancestors counted; None: all.
        hierarchy: Over the classes of the predictions: adds the ancestors of every detection, since the official
            evaluator does not. None: detections as predicted.
    """

    least_score: float = 0.0
    most_per_image: int | None = None
    hierarchy: ClassHierarchy | None = None

    def __post_init__(self) -> None:
        if self.most_per_image is not None and self.most_per_image < 1:
            raise AnnotationError(f'most_per_image: must be at least 1, got {self.most_per_image}')


@dataclass(frozen=True, eq=False)
class _Rows:
    """Selected detections of some images, as they go into the file: boxes clipped and rounded."""

    counts: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray


def read_image_list(path: str | Path) -> list[str]:
    """Reads the images of a CSV with a column ``ImageID`` or ``ImageId``, each once, in their order."""
    column = image_column_of(path, read_header(path))
    return pc.unique(read_columns(path, {column: pa.string()})[column]).to_pylist()


def write_submission(
    out: str | Path,
    predictions: PredictionSet,
    image_ids: Sequence[str] | None = None,
    selection: Selection | None = None,
    progress: Progress = no_progress,
    num_threads: int = 2,
) -> SubmissionSummary:
    """Writes a submission, reads it back and holds it against the predictions; it is there only if all is well.

    Scores are written so that they read back as the same float32, coordinates to :data:`DECIMALS` decimals, clipped to
    [0, 1]. Boxes without area are left out, as the metric leaves them out.

    Args:
        out: The file, ``.csv`` or ``.csv.gz``.
        predictions: Their best detections come first.
        image_ids: Images of the file, in this order, those without detections too; None: those of the predictions.
        selection: Which detections; None: all.
        progress: Told how many images are written and checked.
        num_threads: Pieces made into text, or parsed, at a time.

    Raises:
        AnnotationError: An image named twice, an id or MID that has no place in such a file, a file that does not read
            back as it was meant (a full or broken disk).
    """
    job = _Job(predictions, image_ids, selection or Selection())
    with atomic_write(out) as temporary:
        compression = 'gzip' if str(out).endswith('.gz') else None
        with pa.output_stream(str(temporary), compression=compression) as stream:
            stream.write(b'ImageId,PredictionString\n')
            for (_, last), (text, part) in zip(job.runs(), _in_order(job.text, job.runs(), num_threads)):
                stream.write(text)
                job.summary.add(part)
                progress('writing images', last, len(job.ids))
        done = 0
        for rows in _in_order(job.check, submission_texts(temporary), num_threads):
            done += rows
            progress('reading back images', done, len(job.ids))
        if done != len(job.ids):
            raise AnnotationError(f'{out}: reads back {done} images, {len(job.ids)} were written; is the disk full?')
        job.summary.bytes = temporary.stat().st_size
    return job.summary


class _Job:
    """What goes into the file, piece by piece; its methods may run in several threads at once."""

    def __init__(self, predictions: PredictionSet, image_ids: Sequence[str] | None, selection: Selection) -> None:
        own = predictions.image_ids()
        self.predictions, self.selection = predictions, selection
        self.ids = pa.array(own if image_ids is None else list(image_ids), pa.string())
        self.names = pa.array(predictions.label_names, pa.string())
        _require_plain('image id', self.ids)
        _require_plain('class', self.names)
        if len(pc.unique(self.ids)) < len(self.ids):
            raise AnnotationError('image_ids: names an image twice; a submission has one row for each')
        found = pc.index_in(self.ids, pa.array(own, pa.string())).fill_null(-1)
        self.image: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.int64)
        known = int((self.image >= 0).sum())
        self.summary = SubmissionSummary(
            images=len(self.ids), images_without_predictions=len(self.ids) - known, other_images=len(own) - known
        )

    def runs(self) -> Iterator[tuple[int, int]]:
        """First and last + 1 image of each piece."""
        lengths = row_lengths(self.predictions.detection_stop, self.image)
        return runs_of_rows(lengths, DETECTIONS_AT_ONCE)

    def text(self, run: tuple[int, int]) -> tuple[pa.Buffer, SubmissionSummary]:
        """A piece as bytes."""
        first, last = run
        rows, summary = self._select(self.image[first:last])
        names = self.names.take(pa.array(rows.label))
        return format_rows(self.ids.slice(first, last - first), rows.counts, names, rows.score, rows.box), summary

    def check(self, text: SubmissionText) -> int:
        """Holds some rows, as read back, against the predictions; how many they are."""
        read, first, count = text.parse(), text.first, len(text.image_ids)
        rows, _ = self._select(self.image[first : first + count])
        same = (
            read.image_ids.equals(self.ids.slice(first, count))
            and np.array_equal(read.counts, rows.counts)
            and read.label_name.equals(self.names.take(pa.array(rows.label)))
            and np.array_equal(read.score.astype(np.float32), rows.score)
            and np.array_equal(read.box, rows.box)
        )
        if not same:
            raise AnnotationError(
                f'{text.path}: images {first} to {first + count - 1} do not read back as they were written; '
                'is the disk full or broken, or were the predictions changed?'
            )
        return count

    def _select(self, image: np.ndarray) -> tuple[_Rows, SubmissionSummary]:
        """The detections of some images (-1: none) that are submitted, best first."""
        summary = SubmissionSummary()
        counts, rows = gather_rows(self.predictions.detection_stop, image)
        of_image = np.repeat(np.arange(len(image)), counts)
        label, score = self.predictions.label[rows], self.predictions.score[rows].astype(np.float32)
        # 0 is added because -0.0 would be written with its sign.
        box = np.round(np.clip(self.predictions.box[rows], 0, 1), DECIMALS) + 0.0

        scored = score >= np.float32(self.selection.least_score)
        solid = (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3])
        summary.below_the_score = int((~scored).sum())
        summary.boxes_without_area = int((scored & ~solid).sum())
        kept = np.flatnonzero(scored & solid)
        of_image, label, score, box = of_image[kept], label[kept], score[kept], box[kept]
        if self.selection.hierarchy is not None:
            sources, label = self.selection.hierarchy.expand_up(label)
            summary.added_ancestors = len(sources) - len(score)
            of_image, score, box = of_image[sources], score[sources], box[sources]
        if ((of_image[1:] == of_image[:-1]) & (score[1:] > score[:-1])).any():
            order = np.lexsort((-score, of_image))
            of_image, label, score, box = of_image[order], label[order], score[order], box[order]
        counts = np.bincount(of_image, minlength=len(image))
        if self.selection.most_per_image is not None:
            best = row_and_position(counts)[1] < self.selection.most_per_image
            summary.above_the_count = int((~best).sum())
            label, score, box = label[best], score[best], box[best]
            counts = np.minimum(counts, self.selection.most_per_image)
        summary.detections = len(label)
        summary.images_without_detections = int((counts == 0).sum())
        return _Rows(counts, label, score, box), summary


def _in_order(work: Callable[[Given], Made], items: Iterable[Given], num_threads: int) -> Iterator[Made]:
    """``map`` in threads, at most one result ahead of them: memory stays bounded."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending: deque[Future[Made]] = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _require_plain(what: str, texts: pa.Array) -> None:
    unfit = pc.match_substring_regex(texts, r'[\s,"]|^$')
    if pc.any(unfit).as_py():
        text = texts.filter(unfit)[0].as_py()
        raise AnnotationError(f'{what} {text!r}: holds what separates values in a submission, or nothing at all')
