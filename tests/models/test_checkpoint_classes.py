"""A converted detector gives every known class the scores that it had."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

import mmoid
from mmoid.models.checkpoint_classes import convert_classes, tree_of_checkpoint
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import tree
from tests.tool_runs import tool

SOURCE = ClassNames(('/m/a', '/m/b', '/m/c'), ('Apple', 'Banana', 'Cat'), 'source')
TARGET = ClassNames(('/m/c', '/m/fruit', '/m/x', '/m/a', '/m/b'), ('Cat', 'Fruit', 'New', 'Apple', 'Banana'), 'target')
TREE = tree({'/m/fruit': {'/m/a': {}, '/m/b': {}}, '/m/c': {}, '/m/x': {}})
KNOWN = {0: 2, 3: 0, 4: 1}  # target class: source class


def converted(**config: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A head for the classes of SOURCE, and one for those of TARGET with its converted weights."""
    old, new = (MODELS.build(dict(**config, num_classes=len(classes))) for classes in (SOURCE, TARGET))
    new.load_state_dict(convert_classes(old.state_dict(), SOURCE, TARGET).state_dict)
    return old, new


def test_a_box_head_keeps_its_scores_background_and_boxes() -> None:
    coder = dict(type='DeltaXYWHBBoxCoder')
    widths = dict(in_channels=4, fc_out_channels=8, roi_feat_size=1)
    old, new = converted(type='Shared2FCBBoxHead', bbox_coder=coder, **widths)
    features = torch.randn(7, 4, 1, 1)
    (old_scores, old_boxes), (new_scores, new_boxes) = old(features), new(features)
    for label, source in {**KNOWN, 5: 3}.items():  # background last
        torch.testing.assert_close(new_scores[:, label], old_scores[:, source])
    for label, source in KNOWN.items():
        torch.testing.assert_close(new_boxes.reshape(7, 5, 4)[:, label], old_boxes.reshape(7, 3, 4)[:, source])


def test_a_dense_head_keeps_the_scores_of_every_anchor() -> None:
    old, new = converted(type='RetinaHead', in_channels=4, feat_channels=4)
    maps = torch.randn(1, 4, 2, 2)
    old_scores, new_scores = (head.forward_single(maps)[0].reshape(9, -1, 2, 2) for head in (old, new))
    for label, source in KNOWN.items():
        torch.testing.assert_close(new_scores[:, label], old_scores[:, source])


@pytest.mark.parametrize('key', ['dn_query_generator.label_embedding.weight', 'bbox_head.fc_cls.weight'])
def test_heads_of_queries_have_embeddings_of_noisy_labels_or_no_background(key: str) -> None:
    old = torch.randn(3, 8)
    new = convert_classes({key: old}, SOURCE, TARGET).state_dict[key]
    assert new.shape == (5, 8)
    for label, source in KNOWN.items():
        torch.testing.assert_close(new[label], old[source])


def test_new_ancestors_start_as_the_mean_of_their_descendants() -> None:
    old = {'roi_head.bbox_head.fc_cls.weight': torch.randn(4, 6), 'roi_head.bbox_head.fc_cls.bias': torch.randn(4)}
    conversion = convert_classes(old, SOURCE, TARGET, ClassHierarchy(TREE, TARGET.label_names))
    for name, value in old.items():
        torch.testing.assert_close(conversion.state_dict[name][1], value[:2].mean(dim=0))
    assert conversion.new == ('Fruit', 'New') and conversion.filled == ('Fruit',)
    bias = old['roi_head.bbox_head.fc_cls.bias']
    torch.testing.assert_close(conversion.state_dict['roi_head.bbox_head.fc_cls.bias'][2], bias[:3].mean())


def test_classes_without_mids_are_matched_by_name_and_the_others_reported() -> None:
    source = ClassNames(('Dog', 'Banana'), ('Dog', 'Banana'), 'source')
    weight = torch.arange(3.0)[:, None]
    conversion = convert_classes({'fc_cls.weight': weight}, source, TARGET)
    assert conversion.unused == ('Dog',)
    assert conversion.state_dict['fc_cls.weight'][[4, 5], 0].tolist() == [1, 2]


def test_class_agnostic_boxes_and_other_layers_are_left_alone() -> None:
    old = {'fc_cls.weight': torch.randn(4, 2), 'fc_reg.weight': torch.randn(4, 2), 'conv.weight': torch.randn(3, 2)}
    old['bn.num_batches_tracked'] = torch.tensor(7)
    rates = {'bbox_head.loss_cls.rates': torch.ones(1), 'bbox_head.loss_cls.rates_indices': torch.tensor([[0], [1]])}
    conversion = convert_classes({**old, **rates}, SOURCE, TARGET)
    assert set(conversion.state_dict) == set(old)  # the config gives the rates of the new classes
    assert conversion.layers == ('fc_cls.weight',)
    assert all(np.array_equal(conversion.state_dict[name], old[name]) for name in list(old)[1:])


@pytest.mark.parametrize('dense_classes', [5, 4])
def test_the_hierarchy_is_read_from_dense_and_sparse_ancestors(dense_classes: int, monkeypatch) -> None:
    monkeypatch.setattr('mmoid.models.class_lists.DENSE_CLASSES', dense_classes)
    ancestors = ClassHierarchy(TREE, TARGET.label_names).ancestor_matrix
    loss_cls = dict(type='mmoid.ConcurrentSoftmaxLoss', hierarchy=ancestors)
    head = mmoid.LabelSetBBoxHead(num_classes=5, loss_cls=loss_cls, in_channels=4, fc_out_channels=8, roi_feat_size=1)
    assert head.ancestors.dim() == dense_classes - 3
    state_dict = {f'bbox_head.{name}': value for name, value in head.state_dict().items()}
    tree = tree_of_checkpoint({'state_dict': state_dict}, TARGET)
    assert (ClassHierarchy(tree, TARGET.label_names).ancestor_matrix == ancestors).all()


@pytest.mark.parametrize(
    ('state_dict', 'source', 'message'),
    [
        ({'fc_cls.weight': torch.zeros(4, 2)}, ClassNames(('/m/q', '/m/r', '/m/s')), 'no class in common'),
        ({'fc_cls.weight': torch.zeros(9, 2)}, SOURCE, 'no layer .* for the 3 classes'),
    ],
)
def test_a_detector_of_other_classes_is_an_error(state_dict: dict, source: ClassNames, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        convert_classes(state_dict, source, TARGET)


def test_the_tool_writes_a_checkpoint_for_the_classes_of_a_store(tiny_data: Path, tmp_path: Path) -> None:
    store = AnnotationStore(tiny_data / 'train')
    rows = ['/m/other,Other', *(f'{mid},{name}' for mid, name in zip(store.label_names[1:], store.class_names[1:]))]
    (tmp_path / 'classes.csv').write_text('\n'.join(rows))
    weight = torch.randn(len(rows) + 1, 6)
    state = {'roi_head.bbox_head.fc_cls.weight': weight, 'roi_head.bbox_head.fc_cls.bias': torch.randn(len(weight))}
    torch.save(dict(state_dict=state), tmp_path / 'old.pth')
    options = ('--store', store.path, '--classes', tmp_path / 'classes.csv')
    done = tool('convert_checkpoint', tmp_path / 'old.pth', tmp_path / 'new.pth', *options)
    assert f'new classes: 1 ({store.class_names[0]})' in done.stdout and 'classes left out: 1 (Other)' in done.stdout
    new = torch.load(tmp_path / 'new.pth', weights_only=True)
    assert new['meta']['dataset_meta']['label_names'] == store.label_names
    assert torch.equal(new['state_dict']['roi_head.bbox_head.fc_cls.weight'][1:], weight[1:])
