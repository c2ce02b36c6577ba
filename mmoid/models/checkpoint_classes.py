"""Other classes for the weights of a trained detector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmoid.models.class_lists import sparse_matrix
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, flat_tree, tree_of_ancestors

# The last layers of mmdet's heads that have channels for each class, and DINO's embedding of noisy labels. fc_cls has
# one more, for background; fc_reg and the dense heads have several for each class.
LAYER = re.compile(
    r'(fc_cls|fc_reg|retina_cls|atss_cls|gfl_cls|vfnet_cls|tood_cls|conv_cls|rtm_cls\.\d+|multi_level_conv_cls\.\d+'
    r'|cls_branches\.\d+|conv_logits|label_embedding)\.(weight|bias)$'
)


@dataclass(frozen=True)
class Conversion:
    """A state dict with other classes."""

    state_dict: dict[str, Tensor]
    layers: tuple[str, ...]  # names of the parameters that were reordered
    new: tuple[str, ...]  # classes that the detector did not have
    filled: tuple[str, ...]  # those of ``new`` that start as the mean of their descendants
    unused: tuple[str, ...]  # classes of the detector that are left out


def classes_of_checkpoint(checkpoint: Mapping[str, Any], source: str) -> ClassNames:
    """The classes that a checkpoint of mmdet 2 or 3 names.

    Raises:
        AnnotationError: It names none.
    """
    meta = checkpoint.get('meta', {})
    meta = {**meta, **meta.get('dataset_meta', {})}
    names = meta.get('classes', meta.get('CLASSES'))
    if names is None:
        raise AnnotationError(f'{source}: does not name its classes; give them with --classes')
    return ClassNames(tuple(meta.get('label_names', names)), tuple(names), source)


def tree_of_checkpoint(checkpoint: Mapping[str, Any], classes: ClassNames) -> dict:
    """The class hierarchy in the weights of a :class:`mmoid.LabelSetBBoxHead`; without one, no class has ancestors."""
    state_dict = checkpoint.get('state_dict', checkpoint)
    for name in (name for name in state_dict if name.endswith('.ancestors')):
        value, indices = state_dict[name], state_dict.get(f'{name}_indices')
        if indices is not None:
            value = sparse_matrix(indices, value, len(classes)).to_dense()
        if value.shape == (len(classes), len(classes)):
            return tree_of_ancestors(value.numpy(), classes.label_names)
    return flat_tree(classes.label_names)


def convert_classes(
    state_dict: Mapping[str, Tensor], source: ClassNames, target: ClassNames, hierarchy: ClassHierarchy | None = None
) -> Conversion:
    """Reorders the class channels of a detector's last layers.

    A class is the same if it has the same MID, or else the same display name. The channels of a new class start as in
    a new head, with weights of N(0, 0.01), and with the mean bias of the known classes.

    Args:
        state_dict: Of a detector of mmdet.
        source: Its S classes.
        target: The T classes wanted.
        hierarchy: Over ``target``: a new class with known descendants starts as their mean instead.

    Raises:
        AnnotationError: No class in common, or no layer with channels for ``source``.

    Examples:
        >>> conversion = convert_classes(checkpoint['state_dict'], source, AnnotationStore(path).classes)
    """
    by_mid = {mid: i for i, mid in enumerate(source.label_names)}
    by_name = {name: i for i, name in enumerate(source.display_names)}
    pairs = zip(target.label_names, target.display_names)
    origin = torch.tensor([by_mid.get(mid, by_name.get(name, -1)) for mid, name in pairs])  # (T,) in source or -1
    known = origin >= 0
    if not known.any():
        raise AnnotationError(f'{source.source} and {target.source} have no class in common')
    shares = torch.zeros(len(target), len(target))  # of each known class in each new one
    if hierarchy is not None:
        shares[~known] = torch.from_numpy(hierarchy.ancestor_matrix.T)[~known].float() * known
        shares /= shares.sum(dim=1, keepdim=True).clamp(min=1)
    filled = shares.any(dim=1)
    generator = torch.Generator().manual_seed(0)
    # A config gives the rates and ancestors of the new classes.
    of_config = re.compile(r'(^|\.)(rates|ancestors)(_indices)?$|(^|\.)class_names$')
    converted, layers = {name: value for name, value in state_dict.items() if not of_config.search(name)}, []
    for name, value in state_dict.items():
        if not LAYER.search(name):
            continue
        by_class = 'fc_reg' in name  # class, then coordinate; dense heads order channels by anchor, then class
        background = int('fc_cls' in name and len(value) != len(source))  # none in heads of queries with sigmoids
        channels = len(value) - background
        if channels % len(source) or (by_class and channels != 4 * len(source)):  # class-agnostic
            continue
        shape = (len(source), -1, *value.shape[1:]) if by_class else (-1, len(source), *value.shape[1:])
        old = value[:channels].float().reshape(shape).movedim(0 if by_class else 1, 0)
        rows = old[origin.clamp(min=0)]
        if name.endswith('weight'):
            rows[~known] = 0.01 * torch.randn(rows[~known].shape, generator=generator)
        else:
            rows[~known] = rows[known].mean(dim=0)
        rows[filled] = torch.tensordot(shares, rows * known.reshape(-1, *[1] * (rows.dim() - 1)), dims=1)[filled]
        rows = rows.movedim(0, 0 if by_class else 1).reshape(-1, *value.shape[1:])
        converted[name] = torch.cat([rows.to(value.dtype), value[channels:]])
        layers.append(name)
    if not layers:
        raise AnnotationError(
            f'no layer of the checkpoint has channels for the {len(source)} classes of {source.source}'
        )
    names = target.display_names
    return Conversion(
        state_dict=converted,
        layers=tuple(layers),
        new=tuple(name for name, is_known in zip(names, known) if not is_known),
        filled=tuple(name for name, is_filled in zip(names, filled) if is_filled),
        unused=tuple(source.display_names[i] for i in np.setdiff1d(np.arange(len(source)), origin)),
    )
