"""OpenImagesHierarchyDataset: an mmdet data set over an AnnotationStore."""

from __future__ import annotations

import fcntl
import os.path as osp
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.fileio import exists
from mmengine.logging import print_log

from mmoid.openimages.boxes import below_a_pixel
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.ragged import gather_rows
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE, AnnotationStore
from mmoid.openimages.store.writing import expand_image_lists, image_lists
from mmoid.utils.progress import progress_bars

IMAGES_CHECKED = 16
MIXES_IMAGES = re.compile('Mosaic|MixUp|CopyPaste')  # transforms of mmdet


@DATASETS.register_module()
class OpenImagesHierarchyDataset(BaseDetDataset):
    """Open Images, or data in its formats, without a Python object per image.

    Items are mmdet's: ``img_path``, ``img_id`` (the ImageID), ``width``, ``height``, ``instances`` (each with ``bbox``
    in absolute pixels, ``bbox_label``, ``ignore_flag``, ``is_group_of``), ``image_level_labels`` (class indices) and
    ``confidences`` (those of :class:`AnnotationStore`). Labels are as annotated; the model makes label sets of them.
    ``metainfo`` holds ``classes`` (unique display names) and ``label_names`` (MIDs) in the order of class indices.

    Args:
        ann_file: A store (folder made by ``tools/dataset_converters/prepare_openimages.py``), or an official box CSV. A
            CSV is converted once, into a store beside it named ``<ann_file>.store``.
        label_file: Class descriptions CSV. Only for a CSV ``ann_file``, like the next three.
        hierarchy_file: Hierarchy JSON.
        image_level_ann_file: Human-verified image-level labels CSV.
        image_sizes_file: CSV of image sizes; without it they are read from the image files.
        group_of: Use of group-of boxes in training: ``keep`` as ground truth, ``ignore`` as ignore regions, or
            ``drop``.
        data_prefix: ``dict(img=folder)``, relative to ``data_root``; the image folder of the store if None.
        filter_cfg: ``filter_empty_gt`` and ``min_size`` (pixels, shorter side), as in mmdet; not in test mode.
        **kwargs: As for ``BaseDetDataset``, which passes them on in the same way; mmdet's releases differ in them.
            ``metainfo=dict(classes=[names or MIDs])`` selects classes; ``return_classes`` gives their names to
            grounding detectors. ``proposal_file`` is refused, since mmdet's proposals are pickles.

    Raises:
        AnnotationError: Annotations that cannot be used, an image folder without the images, unknown classes.
        ValueError: An unknown ``group_of``, a ``proposal_file``.

    Examples:
        >>> dataset = OpenImagesHierarchyDataset('data/openimages/train', filter_cfg=dict(filter_empty_gt=True))
        >>> dataset[0]['instances'][0]['bbox_label'], dataset.metainfo['classes'][0]
        (69, 'Infant bed')
    """

    data_list: StoreRecords
    store: AnnotationStore
    hierarchy: ClassHierarchy
    proposal_file: str

    def __init__(
        self,
        ann_file: str = '',
        label_file: str | None = None,
        hierarchy_file: str | None = None,
        image_level_ann_file: str | None = None,
        image_sizes_file: str | None = None,
        group_of: Literal['keep', 'ignore', 'drop'] = 'keep',
        data_prefix: dict | None = None,
        filter_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if group_of not in ('keep', 'ignore', 'drop'):
            raise ValueError(f'dataset.group_of must be one of keep, ignore, drop, got {group_of!r}')
        self.group_of = group_of
        self._files = dict(  # as convert() calls them, in its order
            classes=label_file,
            hierarchy=hierarchy_file,
            image_labels=image_level_ann_file,
            image_sizes=image_sizes_file,
        )
        # mmengine serializes data against a copy in each worker; here the workers map the same files.
        kwargs['serialize_data'] = False
        super().__init__(ann_file, data_prefix=data_prefix or {}, filter_cfg=filter_cfg, **kwargs)

    def load_data_list(self) -> StoreRecords:
        path = Path(self.ann_file)
        is_csv = path.name.endswith(('.csv', '.csv.gz')) and not path.is_dir()
        self.store = AnnotationStore(self._converted(path) if is_csv else path)
        folder = self._image_folder() or self.store.image_folder
        if folder is None:
            raise AnnotationError(f'{self.store.path}: does not name an image folder; set data_prefix=dict(img=...)')
        wanted = self._metainfo.get('classes')
        classes = self.store.classes
        kept = np.arange(len(classes)) if wanted is None else classes.indices(wanted, 'metainfo.classes')
        classes = classes.subset(kept)
        self._metainfo |= {'classes': classes.display_names, 'label_names': classes.label_names}
        self.hierarchy = ClassHierarchy(self.store.metadata['hierarchy'], classes.label_names)
        new_label = np.full(self.store.num_classes, -1)
        new_label[kept] = np.arange(len(kept))
        records = StoreRecords(
            store=self.store,
            images=np.arange(self.store.num_images),
            new_label=new_label,
            hierarchy=self.hierarchy,
            folder=str(folder),
            group_of=self.group_of,
            training=not self.test_mode,
        )
        records.require_images(self.backend_args)
        self._set_orientation()
        return records

    def _set_orientation(self) -> None:
        """Loads images so that the boxes fit: as stored for the official files, turned by EXIF for most others."""
        if not self.store.metadata['sources']:  # images without annotations
            return
        wanted = 'color' if self.store.upright else 'color_ignore_orientation'
        for step in self.pipeline.transforms:
            if getattr(step, 'color_type', None) in {'color', 'color_ignore_orientation'} - {wanted}:
                step.color_type = wanted
                how = 'with' if self.store.upright else 'without'
                print_log(f'{self.store.path}: loading images {how} their EXIF orientation', 'current')

    def load_proposals(self) -> None:
        """Refuses mmdet's proposal files: they are pickles, and reading one can run any code."""
        raise ValueError(f'dataset.proposal_file = {self.proposal_file}: pickled proposals are not read; use an RPN')

    def filter_data(self) -> StoreRecords:
        keep = np.ones(len(self.data_list), dtype=bool)
        if self.filter_cfg and not self.test_mode:
            keep &= np.minimum(self.store.width, self.store.height) >= self.filter_cfg.get('min_size', 0)
            if self.filter_cfg.get('filter_empty_gt', False):
                keep &= self.data_list.box_counts() > 0
        if not keep.any():
            raise ValueError(
                f'dataset: none of the {len(keep)} images of {self.store.path} is left; check dataset.filter_cfg and '
                'metainfo.classes'
            )
        return self.data_list[np.flatnonzero(keep)]

    def get_data_info(self, idx: int) -> dict:
        """One item; see the class. It is a new object, which the caller may change."""
        self.full_init()
        item = {**self.data_list[idx], 'sample_idx': idx if idx >= 0 else len(self) + idx}
        if self.return_classes:
            item |= {'text': self._metainfo['classes'], 'caption_prompt': self.caption_prompt, 'custom_entities': True}
        return item

    def prepare_data(self, idx: int) -> Any:
        """What the pipeline makes of an item; in training, with the verified classes of the image in ``gt_instances``.

        An image that the pipeline mixes from several has none.
        """
        data = super().prepare_data(idx)
        mixes = any(MIXES_IMAGES.search(type(step).__name__) for step in self.pipeline.transforms)
        if not self.test_mode and not mixes and isinstance(data, dict) and 'data_samples' in data:
            verified = self.data_list.verified_classes(idx)
            data['data_samples'].gt_instances.set_metainfo(dict(verified_classes=verified))
        return data

    def get_cat_ids(self, idx: int) -> list[int]:
        """Class indices of the ground-truth boxes of image ``idx``, one per box."""
        self.full_init()
        _, labels, ignored = self.data_list.boxes(int(self.data_list.images[idx]))
        return labels[~ignored].tolist()

    def class_image_counts(self, expand_hierarchy: bool = True) -> np.ndarray:
        """(C,) int64: n_i of Eq. 6, the images of this data set that hold class i."""
        return np.diff(self.class_images(expand_hierarchy)[0], prepend=0)

    def image_indices_of_class(self, label: int, expand_hierarchy: bool = True) -> np.ndarray:
        """(n_i,) indices into this data set, ascending, of the images that hold class ``label``."""
        stop, images = self.class_images(expand_hierarchy)
        return images[stop[label] - self.class_image_counts(expand_hierarchy)[label] : stop[label]]

    def class_images(self, expand_hierarchy: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Image lists of all classes, one after the other.

        Args:
            expand_hierarchy: Count an image for the ancestors of its classes too.

        Returns:
            (C,) end of each class's list, and the lists: (sum of n_i,) indices into this data set.
        """
        self.full_init()
        return self.data_list.class_images(expand_hierarchy)

    def _get_unserialized_subset(self, indices: Sequence[int] | int) -> StoreRecords:
        if isinstance(indices, int):
            return super()._get_unserialized_subset(indices)
        return self.data_list[np.asarray(indices, dtype=np.int64)]

    def _converted(self, csv_file: Path) -> Path:
        """The store beside a CSV file. It is made if it does not exist or a source has changed since."""
        store = csv_file.with_name(f'{csv_file.name}.store')
        files = {name: osp.join(self.data_root or '', path) for name, path in self._files.items() if path is not None}
        for option, name in (('label_file', 'classes'), ('hierarchy_file', 'hierarchy')):
            if name not in files:
                raise ValueError(f'dataset.{option}: is needed to read {csv_file}')
        sources = [csv_file, *map(Path, files.values())]
        if _is_current(store, sources):  # also on a read-only disk
            return store
        # Ranks start together: the first one converts, the others wait here and find the store.
        try:
            lock = open(store.with_name(f'.{store.name}.lock'), 'w')
        except OSError as error:
            raise OSError(
                f'{csv_file.parent}: cannot take the store of {csv_file.name} ({error}); make it elsewhere with '
                'mmoid prepare --out STORE and give STORE as ann_file'
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_current(store, sources):
                options: dict[str, Any] = {**files, 'images': self._image_folder(), 'overwrite': True}
                with progress_bars() as progress:
                    convert(store, boxes=csv_file, **options, progress=progress)
        return store

    def _image_folder(self) -> str | None:
        return self.data_prefix.get('img') or self.data_prefix.get('img_path')


@dataclass(frozen=True)
class StoreRecords(Sequence):
    """mmdet's ``data_list`` over a store: makes an item when it is asked for."""

    store: AnnotationStore
    images: np.ndarray  # (n,) store index of each item
    new_label: np.ndarray  # (classes of the store,) class index in the data set, -1 for classes that it leaves out
    hierarchy: ClassHierarchy  # over the C classes of the data set
    folder: str
    group_of: str  # ``keep``, ``ignore`` or ``drop`` group-of boxes
    training: bool  # leave out boxes below a pixel: they are ground truth of the metric, but no training targets
    _class_images: dict[bool, tuple[np.ndarray, np.ndarray]] = field(init=False, default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (slice, np.ndarray)):
            return replace(self, images=self.images[index])
        return self._record(int(self.images[index]))

    def __deepcopy__(self, memo: dict) -> StoreRecords:
        return self  # read-only and mapped

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_class_images': {}}  # workers need no lists; samplers stay in the main process

    def boxes(self, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes of an image of the store: (n,) rows, (n,) class indices, (n,) bool whether each is to be ignored."""
        store = self.store
        part = store.boxes_of_image(image)
        rows = np.arange(part.start, part.stop)
        labels = self.new_label[store.box_label[rows]]
        ignored = (store.is_group_of[rows] == 1) & (self.group_of != 'keep')
        keep = labels >= 0
        if self.training:
            keep &= ~below_a_pixel(store.box[rows], store.width[image], store.height[image])
        if self.group_of == 'drop':
            keep &= ~ignored
        return rows[keep], labels[keep], ignored[keep]

    def box_counts(self) -> np.ndarray:
        """(N,) int64 ground-truth boxes of each image of the store."""
        stop, truth = self.store.box_stop, self._is_ground_truth()
        if truth is not None:
            stop = np.concatenate([[0], np.cumsum(truth)])[stop]
        return np.diff(stop, prepend=0)

    def class_images(self, expand_hierarchy: bool) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`OpenImagesHierarchyDataset.class_images`."""
        if expand_hierarchy not in self._class_images:
            self._class_images[expand_hierarchy] = self._image_lists(expand_hierarchy)
        return self._class_images[expand_hierarchy]

    def _image_lists(self, expand_hierarchy: bool) -> tuple[np.ndarray, np.ndarray]:
        store, truth = self.store, self._is_ground_truth()
        same_classes = np.array_equal(self.new_label, np.arange(store.num_classes))
        if truth is None and same_classes and (np.diff(self.images) > 0).all():
            # The lists of the store itself, without the images that are not in this data set.
            stop, images = np.cumsum(store.class_image_counts(expand_hierarchy)), store.class_images(expand_hierarchy)
            if len(self) == store.num_images:
                return stop, images  # still mapped, not copied
            new_image = np.full(store.num_images, -1, dtype=np.int32)
            new_image[self.images] = np.arange(len(self))
            images = new_image[images]
            kept = images >= 0
            return np.concatenate([[0], np.cumsum(kept)])[stop], images[kept]
        counts, rows = gather_rows(store.box_stop, self.images)
        item = np.repeat(np.arange(len(self), dtype=np.int32), counts)
        if truth is not None:
            item, rows = item[truth[rows]], rows[truth[rows]]
        lists = image_lists(item, self.new_label[store.box_label[rows]], self.hierarchy.num_classes)
        return expand_image_lists(*lists, self.hierarchy) if expand_hierarchy else lists

    def _is_ground_truth(self) -> np.ndarray | None:
        """(B,) bool: boxes of the store that are ground truth here. None: all, which needs no look at the boxes."""
        small = self.store.boxes_below_a_pixel[: None if self.training else 0]
        if self.group_of == 'keep' and not len(small) and (self.new_label >= 0).all():
            return None
        truth = self.new_label[self.store.box_label] >= 0
        truth[small] = False
        return truth if self.group_of == 'keep' else truth & (self.store.is_group_of != 1)

    def verified_classes(self, index: int) -> np.ndarray:
        """Ascending class indices that are verified in item ``index``, as in the metric.

        Without classes of which some objects may have no box: they are no negatives of background either.
        """
        store, image = self.store, int(self.images[index])
        rows = store.labels_of_image(image)
        label = self.new_label[store.image_label[rows]]
        confidence = store.image_label_confidence[rows]
        label, confidence = label[label >= 0], confidence[label >= 0]
        box_label = self.new_label[store.box_label[store.boxes_of_image(image)]]
        present = np.concatenate([box_label[box_label >= 0], label[confidence > 0]])
        verified = self.hierarchy.verified_classes(present, label[confidence == 0])
        not_exhaustive = label[confidence == NOT_EXHAUSTIVE]
        if not len(not_exhaustive):
            return verified
        return np.setdiff1d(verified, self.hierarchy.verified_classes(not_exhaustive, label[:0]))

    def require_images(self, backend_args: dict | None) -> None:
        """Raises AnnotationError if some of a few images, spread over the set, do not exist."""
        chosen = np.unique(np.linspace(0, len(self) - 1, IMAGES_CHECKED).astype(np.int64)) if len(self) else ()
        paths = [self.path(int(self.images[i])) for i in chosen]
        missing = [path for path in paths if not exists(path, backend_args)]
        if missing:
            raise AnnotationError(
                f'{missing[0]}: no such image (of {self.store.path}); {len(missing)} of {len(paths)} looked for are '
                'missing; set data_prefix=dict(img=...)'
            )

    def path(self, image: int) -> str:
        """Image file of an image of the store."""
        return osp.join(self.folder, self.store.file_name(image))

    def _record(self, image: int) -> dict:
        store = self.store
        width, height = int(store.width[image]), int(store.height[image])
        rows, labels, ignored = self.boxes(image)
        label_rows = store.labels_of_image(image)
        boxes = store.box[rows] * (width, height, width, height)
        columns = (boxes, labels, ignored.astype(int), store.is_group_of[rows])
        instances = [
            {'bbox': box, 'bbox_label': label, 'ignore_flag': ignore, 'is_group_of': group}
            for box, label, ignore, group in zip(*(column.tolist() for column in columns))
        ]
        image_labels = self.new_label[store.image_label[label_rows]]
        return {
            'img_path': self.path(image),
            'img_id': store.image_id(image),
            'width': width,
            'height': height,
            'instances': instances,
            'image_level_labels': image_labels[image_labels >= 0],
            'confidences': store.image_label_confidence[label_rows][image_labels >= 0],
        }


def _is_current(store: Path, sources: Sequence[Path]) -> bool:
    """Whether a store was made of exactly these files, in the order of :func:`convert`, and they have not changed."""
    try:
        recorded = AnnotationStore(store).metadata['sources']
    except AnnotationError:  # missing, damaged, or of another version of mmoid
        return False
    found = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    return found == [(source['name'], source['bytes'], source['modified_ns']) for source in recorded]
