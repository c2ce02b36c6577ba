"""Damaged files of every kind: an AnnotationError, never another exception."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.csv_files import open_predictions, read_image_list, read_predictions
from mmoid.openimages.readers import coco, csv_files
from mmoid.openimages.readers.image_files import read_sizes
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.readers.parquet import import_parquet
from mmoid.openimages.readers.voc import import_voc
from mmoid.openimages.readers.yolo import import_yolo
from mmoid.openimages.statistics.concurrent_rates import load_rates, save_rates
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.coco_documents import coco_document
from tests.official_files import BOXES, CLASSES, LABEL_NAMES, LABELS, TREE, save_image, write_files
from tests.openimages.predictions.prediction_cases import image_names, make_store, random_rows
from tests.openimages.readers.test_voc import XML

WORDS = '\ufeff|\r\n|,|"|\\|\0|nan|inf|-1|1e999|NaN|null|true|{}|[]|[|]|{|}|:|\xff|é|/m/apple|../x|a.jpg|0.5|-0.0|2'
ROWS = 'ImageID,LabelName,Score,XMin,XMax,YMin,YMax\na,/m/apple,0.5,0,1,0,1\nb,/m/fruit,0.25,0,0.5,0,1\n'
YOLO_ROWS = '0 0.5 0.5 0.5 0.4\n1 0.1 0.1 0.2 0.1 0.2 0.3\n'
YAML = 'path: .\ntrain: images\nnames: {0: fruit, 1: apple}\n'
STRINGS = 'ImageID,PredictionString\na,/m/apple 0.5 0 0 1 1 /m/fruit 1 0 0 1 1\nb,\n'


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Cuts, copies, overwrites or inserts something at one or two places."""
    words = WORDS.encode('latin-1', 'replace').split(b'|')
    for _ in range(rng.integers(1, 3)):
        at, to = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        to = min(to, at + int(rng.integers(1, 60)))
        kind = rng.integers(8)
        if kind == 0:
            data = data[:at] + data[to:]
        elif kind == 1:
            data = data[:to] + data[at:]
        elif kind == 2:
            data = data[:at] + rng.bytes(int(rng.integers(1, 5))) + data[to:]
        elif kind == 3:
            data = data[:at] + words[rng.integers(len(words))] + data[to:]
        elif kind == 4:
            data = data[:at]
        else:
            data = data[:at] + bytes([rng.integers(256)]) + data[at + 1 :]
    return data


def read_photo(path: Path) -> None:
    sizes, faults = read_sizes(path.parent, [path.name], upright=True)
    assert faults or sizes.min() > 0
    if faults:
        raise AnnotationError(faults[0])


def open_store(path: Path) -> None:
    store = AnnotationStore(path.parent)
    assert store.hierarchy.num_classes == len(store.classes)
    for image in range(store.num_images):
        store.image_id(image), store.file_name(image), store.boxes_of_image(image)


def convert_coco(path: Path) -> None:
    coco.import_coco(path.parent / 'imported', annotations=path, overwrite=True)


def write_parquet(folder: Path) -> Path:
    objects = {'bbox': [[1.0, 2.0, 3.0, 4.0]], 'category': [1]}
    table = pa.table({'image_id': ['a', 'c'], 'image': [None, b'\xff\xd8'], 'objects': [objects, objects]})
    features = {'objects': {'category': {'feature': {'names': ['x', 'y']}}}}
    metadata = {'huggingface': json.dumps({'info': {'features': features}})}
    pq.write_table(table.replace_schema_metadata(metadata), folder / 'a.parquet', compression='NONE')
    return folder / 'a.parquet'


def convert_annotated(folder: Path) -> Callable[[Path], object]:
    files = write_files(folder / 'official')
    return lambda path: convert(folder / 'annotated', **files, annotated_classes=path, overwrite=True)


def readers(folder: Path) -> dict[str, tuple]:
    """What is read, its file as it should be, and the function that reads it, by name."""
    convert(folder / 'store', **write_files(folder / 'official'))
    save_rates(folder / 'rates.npz', np.eye(5), LABEL_NAMES)
    texts = {
        'boxes.csv': (BOXES, csv_files.read_boxes),
        'labels.csv': (LABELS, csv_files.read_image_labels),
        'classes.csv': ('\n'.join(CLASSES), csv_files.read_classes),
        'sizes.csv': ('ImageID,width,height\na,5,6\nb,7.0,8\n', csv_files.read_image_sizes),
        'tree.json': (json.dumps(TREE), lambda path: ClassHierarchy.from_json(path, LABEL_NAMES)),
        'instances.json': (json.dumps(coco_document()), convert_coco),
        'rows.csv': (ROWS, read_predictions),
        'strings.csv': (STRINGS, read_predictions),
        'labels/a.txt': (YOLO_ROWS, lambda path: import_yolo(folder / 'y', data=folder / 'data.yaml', overwrite=True)),
        'data.yaml': (YAML, lambda path: import_yolo(folder / 'y', data=path, overwrite=True)),
        'drawn.csv': ('ImageID,LabelName\na0,/m/apple\nb1.jpg,/m/fruit\n', convert_annotated(folder)),
        'lists/ids.csv': ('ImageId,PredictionString\na,\nb.jpg,\n', read_image_list),
        'lists/ids.txt': ('train/a.jpg\nb\n', read_image_list),
        'xml/a.xml': (XML, lambda path: import_voc(folder / 'v', annotations=path.parent, overwrite=True)),
    }
    for name, (text, _) in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    found = {name: (folder / name, read) for name, (_, read) in texts.items()}
    (folder / 'images').mkdir()
    shutil.copy(folder / 'official' / 'images' / 'a0.jpg', folder / 'images' / 'a.jpg')
    found['rates'] = (folder / 'rates.npz', load_rates)
    options = dict(images=folder / 'images', missing_images='drop', overwrite=True)
    found['parquet'] = (write_parquet(folder), lambda path: import_parquet(folder / 'p', files=[path], **options))
    found['photo'] = (save_image(folder / 'images' / 'photo.jpg', (40, 30), turned=True), read_photo)
    for path in (folder / 'store').iterdir():
        found[f'store/{path.name}'] = (path, open_store)
    make_store(folder / 'predictions', random_rows(np.random.default_rng(0)), image_names())
    for path in (folder / 'predictions').iterdir():
        found[f'predictions/{path.name}'] = (path, lambda path: open_predictions(path.parent))
    return found


def fuzz(folder: Path, count: int, seed: int) -> Counter:
    """Reads ``count`` damaged files. Returns how many of each reader were refused, of all."""
    rng = np.random.default_rng(seed)
    targets = list(readers(folder).items())
    for _, (path, read) in targets:
        read(path)  # nothing is wrong with it yet
    outcome: Counter = Counter()
    for i in range(count):
        name, (path, read) = targets[i % len(targets)]
        whole = path.read_bytes()
        damaged = mutate(whole, rng)
        # A new file: writing into one that is mapped would change the arrays of the reader.
        path.unlink()
        path.write_bytes(damaged)
        try:
            read(path)
        except AnnotationError as error:
            assert str(error).strip(), name
            outcome[name] += 1
        except Exception as error:
            raise AssertionError(f'{name}, seed {seed}, input {i}: {damaged[:2000]!r}') from error
        finally:
            path.unlink()
            path.write_bytes(whole)
    return outcome


@pytest.mark.parametrize(('count', 'seed'), [(600, 0), pytest.param(20_000, 1, marks=pytest.mark.slow)])
def test_damaged_files_are_errors_that_say_so(tmp_path, count, seed):
    outcome = fuzz(tmp_path, count, seed)
    assert len(outcome) == 27 and sum(outcome.values()) > count / 3
