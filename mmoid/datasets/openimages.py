"""OpenImagesHierarchyDataset: an mmdet data set over an AnnotationStore."""

from __future__ import annotations

import fcntl
import os.path as osp
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.fileio import load

from mmoid.datasets.records import StoreRecords
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.ragged import gather_rows
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.tables import expand_image_lists, image_lists
from mmoid.utils.progress import progress_bars

GROUP_OF = ('keep', 'ignore', 'drop')


@DATASETS.register_module()
class OpenImagesHierarchyDataset(BaseDetDataset):
    """Open Images, or data in its formats, without a Python object per image.

    Items are mmdet's: ``img_path``, ``img_id`` (the ImageID), ``width``, ``height``, ``instances`` (each with ``bbox``
    in absolute pixels, ``bbox_label``, ``ignore_flag``, ``is_group_of``), ``image_level_labels`` (class indices) and
    ``confidences`` (1 verified present, 0 verified absent). Labels are as annotated, not expanded to ancestors: the
    RoI sampler does that (:class:`mmoid.LabelSetSampler`).

    ``metainfo`` holds ``classes`` (unique display names) and ``label_names`` (MIDs), in the order of class indices.

    Args:
        ann_file: A store (folder made by ``tools/dataset_converters/prepare_openimages.py``), or an official box CSV. A CSV is converted
            once, into a store beside it named ``<ann_file>.store``.
        label_file: Class descriptions CSV; for a CSV ``ann_file`` only, like the next three.
        hierarchy_file: Hierarchy JSON.
        image_level_ann_file: Human-verified image-level labels CSV.
        image_sizes_file: CSV of image sizes; without it they are read from the image files.
        group_of: What group-of boxes are to training: ground truth, ignore regions, or nothing.
        data_prefix: ``dict(img=folder)``, relative to ``data_root``. The folder that the store names if empty.
        filter_cfg: ``filter_empty_gt`` and ``min_size`` (pixels, shorter side), as in mmdet; not in test mode.
        **kwargs: As for every mmdet data set. ``metainfo=dict(classes=[names or MIDs])`` takes a part of the classes;
            ``return_classes`` gives their names to grounding detectors as ``CocoDataset`` does, ``proposal_file``
            proposals to Fast R-CNN.

    Raises:
        AnnotationError: Annotations that cannot be used, an image folder without the images, unknown classes, a
            picture without proposals.
    """

    data_list: StoreRecords
    store: AnnotationStore
    hierarchy: ClassHierarchy
    proposal_file: str

    def __init__(
        self,
        ann_file: str = '',
        *args: Any,
        label_file: str | None = None,
        hierarchy_file: str | None = None,
        image_level_ann_file: str | None = None,
        image_sizes_file: str | None = None,
        group_of: Literal['keep', 'ignore', 'drop'] = 'keep',
        data_prefix: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if group_of not in GROUP_OF:
            raise ValueError(f'dataset.group_of must be one of {", ".join(GROUP_OF)}, got {group_of!r}')
        self.group_of = group_of
        self.csv_files = {
            'classes': label_file,
            'hierarchy': hierarchy_file,
            'image_labels': image_level_ann_file,
            'image_sizes': image_sizes_file,
        }
        self._class_index: dict[bool, tuple[np.ndarray, np.ndarray]] = {}
        # Serialising is what mmengine does against a copy per worker; there is nothing to copy here.
        kwargs['serialize_data'] = False
        super().__init__(ann_file, *args, data_prefix=data_prefix or {}, **kwargs)

    def load_data_list(self) -> StoreRecords:
        self.store = AnnotationStore(self._store_path())
        folder = self.data_prefix.get('img') or self.data_prefix.get('img_path') or self.store.image_folder
        if folder is None:
            raise AnnotationError(f'{self.store.path}: does not say where the images are; set data_prefix=dict(img=…)')
        kept = self._kept_classes()
        self.hierarchy = ClassHierarchy(self.store.metadata['hierarchy'], self._metainfo['label_names'])
        new_label = np.full(self.store.num_classes, -1)
        new_label[kept] = np.arange(len(kept))
        records = StoreRecords(self.store, np.arange(self.store.num_images), new_label, str(folder), self.group_of)
        records.require_images()
        return records

    def load_proposals(self) -> None:
        """Reads ``proposal_file``, by ``<folder>/<file>`` of the pictures. The base class writes into the items."""
        self.proposal_file = self._below_root(self.proposal_file)
        proposals = load(self.proposal_file, backend_args=self.backend_args)
        self.data_list = self.data_list.with_proposals(proposals, self.proposal_file)

    def filter_data(self) -> StoreRecords:
        filters = dict(self.filter_cfg or {})
        keep = np.ones(len(self.data_list), dtype=bool)
        if filters and not self.test_mode:
            keep &= np.minimum(self.store.width, self.store.height) >= filters.get('min_size', 0)
            if filters.get('filter_empty_gt', False):
                keep &= self._boxes_per_image() > 0
        return self.data_list[np.flatnonzero(keep)]

    def get_data_info(self, idx: int) -> dict:
        """One item; see the class. Made anew each time, so it is the caller's to change."""
        self.full_init()
        item = {**self.data_list[idx], 'sample_idx': idx if idx >= 0 else len(self) + idx}
        if self.return_classes:
            item |= {'text': self._metainfo['classes'], 'caption_prompt': self.caption_prompt, 'custom_entities': True}
        return item

    def get_cat_ids(self, idx: int) -> list[int]:
        """Class indices of the boxes that train on image ``idx``, one per box."""
        self.full_init()
        return self.data_list.labels(idx)

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
        if expand_hierarchy not in self._class_index:
            self._class_index[expand_hierarchy] = (
                self._filter_class_index(expand_hierarchy) if self._is_filtered_store() else
                self._index_classes(expand_hierarchy)
            )  # fmt: skip
        return self._class_index[expand_hierarchy]

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_class_index': {}}  # samplers stay in the main process; workers need no lists

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        super().get_subset_(indices)
        self._class_index = {}

    def get_subset(self, indices: Sequence[int] | int) -> OpenImagesHierarchyDataset:
        subset = super().get_subset(indices)
        subset._class_index = {}
        return subset

    def _get_unserialized_subset(self, indices: Sequence[int] | int) -> StoreRecords:
        if isinstance(indices, int):
            return self.data_list[:indices] if indices >= 0 else self.data_list[indices:]
        return self.data_list[np.asarray(indices, dtype=np.int64)]

    def _is_filtered_store(self) -> bool:
        """Whether this is the store itself but for images that are left out: then its image lists serve."""
        return (
            self._all_boxes_train()
            and (self.data_list.new_label == np.arange(self.store.num_classes)).all()
            and bool((np.diff(self.data_list.images) > 0).all())
        )

    def _filter_class_index(self, expand_hierarchy: bool) -> tuple[np.ndarray, np.ndarray]:
        stop = np.cumsum(self.store.class_image_counts(expand_hierarchy))
        images = self.store.class_images(expand_hierarchy)
        if len(self.data_list) == self.store.num_images:
            return stop, images  # still mapped, nothing copied
        new_image = np.full(self.store.num_images, -1, dtype=np.int32)
        new_image[self.data_list.images] = np.arange(len(self.data_list))
        images = new_image[images]
        kept = images >= 0
        return np.concatenate([[0], np.cumsum(kept)])[stop], images[kept]

    def _index_classes(self, expand_hierarchy: bool) -> tuple[np.ndarray, np.ndarray]:
        """The lists of a data set that leaves out boxes or classes, or holds images twice or in another order."""
        counts, rows = gather_rows(self.store.box_stop, self.data_list.images)
        item = np.repeat(np.arange(len(self.data_list), dtype=np.int32), counts)
        trains = self._trains()[rows]
        label = self.data_list.new_label[self.store.box_label[rows[trains]]]
        stop, items = image_lists(item[trains], label, self.hierarchy.num_classes)
        if expand_hierarchy:
            stop, items = expand_image_lists(stop, items, self.hierarchy, len(self.data_list))
        return stop, items

    def _all_boxes_train(self) -> bool:
        return self.group_of == 'keep' and bool((self.data_list.new_label >= 0).all())

    def _boxes_per_image(self) -> np.ndarray:
        """(N of the store,) ground-truth boxes here."""
        if self._all_boxes_train():
            return np.diff(self.store.box_stop, prepend=0)
        return np.diff(np.concatenate([[0], np.cumsum(self._trains())])[self.store.box_stop], prepend=0)

    def _trains(self) -> np.ndarray:
        """(B,) bool: boxes of the store that are ground truth here."""
        trains = self.data_list.new_label[self.store.box_label] >= 0
        return trains if self.group_of == 'keep' else trains & (self.store.is_group_of != 1)

    def _kept_classes(self) -> list[int]:
        """Store indices of the classes of this data set; sets ``classes`` and ``label_names`` of the metainfo."""
        names, mids = self.store.class_names, self.store.label_names
        wanted = self._metainfo.get('classes')
        index = {**{name: i for i, name in enumerate(names)}, **{mid: i for i, mid in enumerate(mids)}}
        unknown = [name for name in wanted or () if name not in index]
        if unknown:
            raise AnnotationError(f'metainfo.classes: {unknown[0]!r} is no class of {self.store.path}')
        kept = list(range(len(mids))) if wanted is None else [index[name] for name in wanted]
        self._metainfo['classes'] = tuple(names[i] for i in kept)
        self._metainfo['label_names'] = tuple(mids[i] for i in kept)
        return kept

    def _store_path(self) -> Path:
        path = Path(self.ann_file)
        if path.is_dir() or not path.name.endswith(('.csv', '.csv.gz')):
            return path
        return self._converted(path)

    def _converted(self, csv_file: Path) -> Path:
        """The store beside a CSV file; made now if it is not there or the CSV has changed since."""
        store = csv_file.with_name(f'{csv_file.name}.store')
        sources = {name: self._below_root(path) for name, path in self.csv_files.items() if path is not None}
        missing = [key for key in ('classes', 'hierarchy') if key not in sources]
        if missing:
            option = {'classes': 'label_file', 'hierarchy': 'hierarchy_file'}[missing[0]]
            raise AnnotationError(f'dataset.{option}: is needed to read {csv_file}')
        # Ranks start together; the first converts, the others wait here and find the store.
        with open(store.with_name(f'.{store.name}.lock'), 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_current(store, [csv_file, *map(Path, sources.values())]):
                folder = self.data_prefix.get('img') or self.data_prefix.get('img_path')
                with progress_bars() as progress:
                    convert(
                        store,
                        boxes=csv_file,
                        classes=sources['classes'],
                        hierarchy=sources['hierarchy'],
                        image_labels=sources.get('image_labels'),
                        image_sizes=sources.get('image_sizes'),
                        images=folder,
                        overwrite=True,
                        progress=progress,
                    )
        return store

    def _below_root(self, path: str) -> str:
        return path if osp.isabs(path) or not self.data_root else osp.join(self.data_root, path)


def _is_current(store: Path, sources: Sequence[Path]) -> bool:
    try:
        recorded = {source['name']: source for source in AnnotationStore(store).metadata['sources']}
    except AnnotationError:  # not there, damaged, or of another version of mmoid
        return False
    return {path.name for path in sources} == set(recorded) and all(
        path.stat().st_size == recorded[path.name]['bytes']
        and path.stat().st_mtime_ns == recorded[path.name]['modified_ns']
        for path in sources
    )
