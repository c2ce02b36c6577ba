import csv
import json

import numpy as np
import pytest
from PIL import Image

from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import evaluate_predictions
from mmoid.openimages.predictions.csv_files import read_predictions
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests import box_stores
from tests.box_stores import APPLE, FRUIT, ORANGE
from tests.official_files import LABEL_NAMES, write_files
from tests.openimages.predictions.prediction_cases import Row, make_store, random_rows, rows_csv, rows_of
from tests.tool_runs import tool

IDS = ['b1', 'a0', 'c2', 'd3']


def run_tool(name, *arguments, check=True):
    return tool(name, *arguments, check=check, COLUMNS='140')


@pytest.fixture
def files(tmp_path):
    files = write_files(tmp_path / 'official')
    convert(tmp_path / 'prepared', **files)
    return files


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    rows = [row._replace(image=IDS[int(row.image[-1])]) for row in random_rows(rng, 4)]
    rows += [Row('b1', 0, 0.99, (0.1, 0.2, 0.5, 0.6)), Row('c2', 2, 0.98, (0.25, 0.25, 0.75, 0.75))]
    return sorted(rows, key=lambda row: (IDS.index(row.image), -row.score))


def test_evaluate_predictions_writes_the_figures_of_files_and_a_table(files, rows, tmp_path):
    counts = np.arange(len(LABEL_NAMES))
    lines = ''.join(f'{name},{count}\n' for name, count in zip(LABEL_NAMES, counts))
    (tmp_path / 'counts.csv').write_text(f'LabelName,images\n{lines}')
    (tmp_path / 'rows.csv').write_text(rows_csv(rows))
    options = {'--boxes': files['boxes'], '--labels': files['image_labels'], '--classes': files['classes']}
    options |= {'--hierarchy': files['hierarchy'], '--predictions': tmp_path / 'rows.csv'}
    options |= {'--train': tmp_path / 'counts.csv', '--out': tmp_path / 'out.json', '--table': tmp_path / 'out.csv'}
    done = run_tool('evaluate_predictions', *[word for option in options.items() for word in option])
    annotations = annotations_of_store(AnnotationStore(tmp_path / 'prepared'))
    expected = evaluate_predictions(annotations, read_predictions(tmp_path / 'rows.csv'), train_images=counts)
    figures = json.loads((tmp_path / 'out.json').read_text())
    assert figures == expected.as_json() and figures['mAP'] > 0
    *_, line, out, table = done.stdout.splitlines()
    assert line == f'mAP {figures["mAP"]:.4f} ({figures["protocol"]})'
    assert (out, table) == (f'{tmp_path}/out.json: written', f'{tmp_path}/out.csv: written')
    assert all(f'mAP {group}' in done.stdout for group in ('head', 'middle', 'tail', 'untrained', 'leaf', 'level1'))
    with (tmp_path / 'out.csv').open(newline='') as stream:
        assert [row['train_images'] for row in csv.DictReader(stream)] == [str(count) for count in counts]


def evaluate(*arguments):
    lines = run_tool('evaluate_predictions', *arguments).stdout.splitlines()
    return next(line for line in lines if line.startswith('mAP '))


def test_a_submission_has_all_images_of_a_list_and_ancestors(files, rows, tmp_path):
    make_store(tmp_path / 'predictions', rows, IDS)
    (tmp_path / 'images.csv').write_text('ImageId,PredictionString\n' + ''.join(f'{name},\n' for name in [*IDS, 'z9']))
    make = ['make_submission', tmp_path / 'predictions', '--images', tmp_path / 'images.csv', '--out']
    expand = ['--hierarchy', files['hierarchy'], '--expand-detections']
    done = run_tool(*make, tmp_path / 'submission.csv', *expand)
    assert read_predictions(tmp_path / 'submission.csv').image_ids() == [*IDS, 'z9']
    cells = [[cell.strip() for cell in line.strip('│').split('│')] for line in done.stdout.splitlines()]
    assert ['images', '5'] in cells and ['images without predictions', '1'] in cells
    written = {row[:2] for row in rows_of(read_predictions(tmp_path / 'submission.csv'))}
    assert {(row.image, FRUIT) for row in rows if row.label in (APPLE, ORANGE)} <= written

    refused = run_tool(*make, tmp_path / 'submission.csv', check=False)
    assert refused.returncode == 1 and 'submission.csv: exists already; give --overwrite' in refused.stderr
    refused = run_tool(*make, tmp_path / 'other.csv', '--missing-images', 'error', check=False)
    assert refused.returncode == 1 and "does not have 1 of the 5 images, first 'z9'" in refused.stderr


def test_an_ensemble_of_a_folder_and_a_csv_is_written_evaluated_and_plotted(files, rows, tmp_path):
    make_store(tmp_path / 'one', rows, IDS)
    (tmp_path / 'two.csv').write_text(rows_csv([row._replace(score=row.score / 2) for row in rows]))
    (tmp_path / 'weights.csv').write_text('LabelName,one,two\n/m/apple,0,1\n')
    options = ['--weights', 3, 1, '--class-weights', tmp_path / 'weights.csv', '--store', tmp_path / 'prepared']
    options += ['--missing', 'keep', '--workers', 2]  # the CSV has no row for an image without detections
    done = run_tool('ensemble', tmp_path / 'one', tmp_path / 'two.csv', '--out', tmp_path / 'fused', *options)
    assert 'detections fused' in done.stdout
    fused = PredictionStore(tmp_path / 'fused')
    assert fused.label_names == tuple(LABEL_NAMES) and fused.image_ids() == IDS
    scores = {row.label: row.score for row in rows_of(fused)[::-1] if row.image == 'b1'}
    assert scores[0] <= 0.5, 'the first set has no vote on apples'
    assert not list(tmp_path.glob('fused.*'))
    refused = run_tool('ensemble', tmp_path / 'one', '--out', tmp_path / 'fused', check=False)
    assert refused.returncode == 1 and 'fused: exists already; give --overwrite' in refused.stderr

    for name in ('one', 'fused'):
        evaluate('--store', tmp_path / 'prepared', '--predictions', tmp_path / name, '--out', tmp_path / f'{name}.json')
    options = ['--store', tmp_path / 'prepared', '--out', tmp_path / 'ap.png', '--names', 'one', 'both']
    done = run_tool('plot_class_ap', tmp_path / 'one.json', tmp_path / 'fused.json', *options)
    assert not done.stderr, 'no warning'
    first, second = (json.loads((tmp_path / f'{name}.json').read_text())['mAP'] for name in ('one', 'fused'))
    assert done.stdout.splitlines()[0] == f'4 classes, mAP {first:.4f} (one), {second:.4f} (both)'
    with Image.open(tmp_path / 'ap.png') as image:
        assert image.width > 1000
    text = (tmp_path / 'one.json').read_text()
    (tmp_path / 'one.json').write_text(text.replace('"ancestor_nms": null', '"ancestor_nms": 0.7'))
    done = run_tool('plot_class_ap', tmp_path / 'one.json', tmp_path / 'fused.json', *options)
    assert f'do not have the same rules: ancestor_nms is 0.7 in {tmp_path}/one.json, None in' in done.stderr


def test_two_sets_are_compared_under_all_protocols(files, rows, tmp_path):
    make_store(tmp_path / 'one', rows[:-4], IDS)
    (tmp_path / 'two.csv').write_text(rows_csv([row._replace(image=f'{row.image}.jpg') for row in rows]))
    options = ['--store', tmp_path / 'prepared', '--samples', 50, '--out', tmp_path / 'comparison.png']
    done = run_tool('compare_predictions', tmp_path / 'one', tmp_path / 'two.csv', *options)
    cells = [[cell.strip() for cell in line.strip('│').split('│')] for line in done.stdout.splitlines()]
    figures = {row[0]: row[1:] for row in cells if len(row) == 4}
    for name, protocol in (('challenge', []), ('v2', ['--protocol', 'v2'])):
        for column, file in enumerate(('one', 'two.csv')):
            line = evaluate('--store', tmp_path / 'prepared', '--predictions', tmp_path / file, *protocol)
            assert line.startswith(f'mAP {figures[name][column]} ')
    first, second = map(float, figures['challenge'][:2])
    assert float(figures['all'][1]) == pytest.approx(second - first, abs=2e-4)
    assert 0 <= float(figures['COCO, IoU 0.5 to 0.95'][0]) <= float(figures['COCO, IoU 0.5'][0])
    with Image.open(tmp_path / 'comparison.png') as image:
        assert image.width > 1000


def test_a_split_of_group_of_boxes_only_has_no_figure_by_coco(tmp_path):
    store = box_stores.make_store(tmp_path, [(0, APPLE, (0, 0, 0.5, 1), 1)])
    one = make_store(tmp_path / 'one', [Row('b1', APPLE, 0.9, (0, 0, 0.5, 1))], ['b1']).path
    done = run_tool('compare_predictions', one, one, '--store', store.path, '--samples', 2)
    assert done.stdout.count('+nan') >= 3 and not done.stderr, 'no warning'
