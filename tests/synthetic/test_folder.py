"""The synthetic data set on disk: official formats, reproducible bytes, all or nothing."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.synthetic.folder import write_dataset
from mmoid.synthetic.world import WorldConfig

SMALL = WorldConfig(num_train=30, num_validation=6, image_size=96)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('synthetic') / 'data'
    assert write_dataset(out, SMALL)
    return out


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_files_have_the_official_columns_and_describe_the_images(dataset: Path) -> None:
    metadata = json.loads((dataset / 'metadata.json').read_text())
    lines = (dataset / 'annotations/classes-description.csv').read_text().splitlines()
    assert metadata['options'] == dataclasses.asdict(SMALL)
    assert metadata['classes'] == dict(line.split(',') for line in lines)
    for split, count in (('train', 30), ('validation', 6)):
        images = {path.stem for path in (dataset / 'images' / split).iterdir()}
        assert len(images) == count and all(len(name) == 16 and int(name, 16) >= 0 for name in images)
        boxes = read_csv(dataset / f'annotations/{split}-detection-bbox.csv')
        labels = read_csv(dataset / f'annotations/{split}-detection-human-imagelabels.csv')
        assert list(boxes[0]) == ['ImageID', 'LabelName', 'XMin', 'XMax', 'YMin', 'YMax', 'IsGroupOf']
        assert list(labels[0]) == ['ImageID', 'LabelName', 'Confidence']
        assert {row['Confidence'] for row in labels} == {'0', '1'}
        assert {row['LabelName'] for row in boxes + labels} <= set(metadata['classes'])
        assert {row['ImageID'] for row in boxes + labels} == images  # images without a box have image-level labels
        positive = {(row['ImageID'], row['LabelName']) for row in labels if row['Confidence'] == '1'}
        assert {(row['ImageID'], row['LabelName']) for row in boxes} == positive
        for row in boxes:
            assert 0 <= float(row['XMin']) < float(row['XMax']) <= 1
            assert 0 <= float(row['YMin']) < float(row['YMax']) <= 1
            assert row['IsGroupOf'] in '01' and len(row['XMin']) == 8


def test_hierarchy_is_a_dag_of_depth_three(dataset: Path) -> None:
    lines = (dataset / 'annotations/classes-description.csv').read_text().splitlines()
    mids, names = zip(*(line.split(',') for line in lines), strict=True)
    path = dataset / 'annotations/label-hierarchy.json'
    hierarchy = ClassHierarchy.from_json(path, mids)
    assert hierarchy.depth.max() == 3
    ring = names.index('Ring')
    assert path.read_text().count(f'"{mids[ring]}"') == 2  # with its subtree, below two parents
    assert {names[label] for label in hierarchy.ancestors(ring)} == {'Round shape', 'Hollow shape'}
    square = {names[label] for label in hierarchy.ancestors(names.index('Striped cyan square'))}
    assert square == {'Square', 'Polygon', 'Striped thing'}


def test_same_options_give_the_same_bytes_with_any_number_of_workers(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / 'again', SMALL, workers=2)
    assert contents(tmp_path / 'again') == contents(dataset)
    write_dataset(tmp_path / 'other', dataclasses.replace(SMALL, seed=1))
    assert not set(contents(tmp_path / 'other')) & {name for name in contents(dataset) if name.startswith('images')}


def test_only_a_data_set_of_other_options_is_replaced_and_only_on_request(tmp_path: Path) -> None:
    out = tmp_path / 'data'
    config = dataclasses.replace(SMALL, num_train=2, num_validation=0)
    assert write_dataset(out, config)
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    assert not write_dataset(out, config)
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before
    other = dataclasses.replace(config, imbalance=7.0)
    with pytest.raises(ValueError, match=r'made with imbalance=50.0 \(now 7.0\); .* --overwrite'):
        write_dataset(out, other)
    assert write_dataset(out, other, overwrite=True)
    assert json.loads((out / 'metadata.json').read_text())['options']['imbalance'] == 7.0
    with pytest.raises(ValueError, match='was not written by'):
        write_dataset(tmp_path, SMALL, overwrite=True)
