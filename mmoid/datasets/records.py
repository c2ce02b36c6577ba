"""StoreRecords: mmdet's ``data_list`` over an AnnotationStore, without a Python object per image."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.store.annotation_store import AnnotationStore


@dataclass(frozen=True)
class StoreRecords(Sequence):
    """The items of a data set, each made when it is asked for.

    Attributes:
        store: The mapped annotations.
        images: (n,) store index of each item.
        new_label: (classes of the store,) class index in the data set, -1 for classes it leaves out.
        folder: Image folder.
        group_of: ``keep``, ``ignore`` or ``drop`` group-of boxes.
        proposals: Of every picture by :func:`proposal_key`; None: items have none.
    """

    store: AnnotationStore
    images: np.ndarray
    new_label: np.ndarray
    folder: str
    group_of: str
    proposals: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (slice, np.ndarray)):
            return replace(self, images=self.images[index])
        return self._record(int(self.images[index]))

    def __iter__(self) -> Iterator[dict]:
        return map(self._record, self.images.tolist())

    def __deepcopy__(self, memo: dict) -> StoreRecords:
        return self  # read-only, and mapped: a copy would be the only cost

    def labels(self, index: int) -> list[int]:
        """Class indices of the boxes of item ``index`` that are ground truth."""
        rows = self.store.boxes_of_image(int(self.images[index]))
        labels = self.new_label[self.store.box_label[rows]]
        if self.group_of != 'keep':
            labels = labels[self.store.is_group_of[rows] != 1]
        return labels[labels >= 0].tolist()

    def require_images(self, looks: int = 16) -> None:
        """Looks for a few images, spread over the set, so that a wrong folder is told before training.

        Raises:
            AnnotationError: One of them is not there.
        """
        for image in np.unique(np.linspace(0, len(self) - 1, looks).astype(np.int64)) if len(self) else ():
            path = self._path(int(self.images[image]))
            if not osp.exists(path):
                raise AnnotationError(f'{path}: no such image (of {self.store.path}); set data_prefix=dict(img=…)')

    def with_proposals(self, proposals: Mapping[str, Any], source: str) -> StoreRecords:
        """The same items with ``proposals``, an ``InstanceData`` or dict each, as mmdet's ``LoadProposals`` wants them.

        Raises:
            AnnotationError: A picture without proposals.
        """
        for image in self.images.tolist():
            key = proposal_key(self._path(image))
            if key not in proposals:
                raise AnnotationError(f'dataset.proposal_file: {source} has no proposals of {key!r}')
        return replace(self, proposals=proposals)

    def _path(self, image: int) -> str:
        return osp.join(self.folder, self.store.file_name(image))

    def _record(self, image: int) -> dict:
        store = self.store
        width, height = int(store.width[image]), int(store.height[image])
        rows, label_rows = store.boxes_of_image(image), store.labels_of_image(image)
        boxes = (store.box[rows] * (width, height, width, height)).tolist()
        labels = self.new_label[store.box_label[rows]].tolist()
        group_of = store.is_group_of[rows].tolist()
        instances = [
            {
                'bbox': box,
                'bbox_label': label,
                'ignore_flag': int(group == 1 and self.group_of == 'ignore'),
                'is_group_of': group,
            }
            for box, label, group in zip(boxes, labels, group_of)
            if label >= 0 and not (group == 1 and self.group_of == 'drop')
        ]
        image_labels = self.new_label[store.image_label[label_rows]]
        path = self._path(image)
        return {
            'img_path': path,
            'img_id': store.image_id(image),
            'width': width,
            'height': height,
            'instances': instances,
            'image_level_labels': image_labels[image_labels >= 0],
            'confidences': store.image_label_confidence[label_rows][image_labels >= 0],
            **({} if self.proposals is None else {'proposals': self.proposals[proposal_key(path)]}),
        }


def proposal_key(img_path: str) -> str:
    """What mmdet's proposal files call a picture: its file name and the folder that it is in."""
    folder, name = osp.split(img_path)
    return osp.join(osp.basename(folder), name)
