"""The report: its figures, its numbers, escaped names, and a page that needs no other file."""

import base64
import io
import re
from html import escape, unescape

import numpy as np
import pytest
from PIL import Image

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import measure
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization.report import headlines, write_report
from tests.box_stores import make_store, random_rows
from tests.official_files import CLASSES, write_files

FIGURES = {'imbalance.png', 'label_pairs.png', 'leaf_absence.png'}


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / 'data', random_rows(np.random.default_rng(5)))


def report(out, store, **options):
    return write_report(out, store, measure(store, 0.8), **options).read_text()


def test_the_page_contains_its_figures_and_needs_no_other_file(store, tmp_path):
    (tmp_path / 'report').mkdir()
    (tmp_path / 'report' / 'notes.txt').write_text('kept')
    page = report(tmp_path / 'report', store)
    assert {path.name for path in (tmp_path / 'report').iterdir()} == {'index.html', 'notes.txt', *FIGURES}
    figures = re.findall(r'src="data:image/png;base64,(.*?)"', page)
    assert len(figures) == page.count('src=') == len(FIGURES)
    for data in figures:
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert not re.search(r'http|url\(|href|<script|<link|<iframe', page)


def test_the_page_names_its_sources_and_thresholds_and_what_a_model_confuses(store, tmp_path):
    counts = np.zeros((store.num_classes, store.num_classes), dtype=int)
    counts[0, 1] = 3
    confusion = Confusion(np.full(store.num_classes, 4), counts, counts, counts, {})
    page = report(tmp_path / 'report', store, confusion=confusion, confusion_source='my model, score >= 0.3')
    for text in (str(store.path), 'IoU >= 0.8', 'Fig. 2', 'Fig. 3a', 'Fig. 3b', 'my model, score >= 0.3'):
        assert text in unescape(page)
    assert (tmp_path / 'report' / 'confusion.png').exists()


def test_names_are_escaped(tmp_path):
    files = write_files(tmp_path / 'official')
    hostile = ['<script>alert(1)</script>', '$x_1$ & "y"', *(line.split(',')[1] for line in CLASSES[2:])]
    lines = [f'{line.split(",")[0]},"{name.replace(chr(34), chr(34) * 2)}"' for line, name in zip(CLASSES, hostile)]
    (tmp_path / 'official' / 'classes.csv').write_text('\n'.join(lines) + '\n')
    convert(tmp_path / 'store', **files)
    page = report(tmp_path / 'report', AnnotationStore(tmp_path / 'store'))
    assert '<script' not in page
    assert escape(hostile[0]) in page and escape(hostile[1]) in page


def test_headlines_are_the_numbers_of_the_store(store):
    found = measure(store, 0.8)
    rows = dict(headlines(store, found))
    assert rows['images'] == '4' and rows['boxes'] == '48, 12.0 per image'
    objects = found.label_set_sizes
    assert rows['objects with several labels'].startswith(f'{objects[2:].sum()} of {objects.sum()} (')
    i, j, together = found.level.concurrence.top_pairs(1)[0]
    assert rows['pairs of classes on one object'].endswith(
        f'most frequent {store.class_names[i]} and {store.class_names[j]} ({together})'
    )
    assert rows['group-of boxes'].endswith(f'{(store.is_group_of == -1).sum()} unknown')
