"""The report: its figures, its numbers, and that the page needs nothing but itself."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.concurrent_rates import Concurrence
from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import GroupOf, Imbalance, LabelSetSizes, LeafAbsence, measure
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization import (
    draw_boxes_per_image,
    draw_confusion,
    draw_group_of,
    draw_imbalance,
    draw_label_pairs,
    draw_label_set_sizes,
    draw_leaf_absence,
    headlines,
    save,
    write_report,
)
from tests.box_stores import make_store, random_rows
from tests.official_files import CLASSES, write_files

FIGURES = {
    'imbalance.png', 'label_pairs.png', 'label_set_sizes.png', 'leaf_absence.png', 'group_of.png', 'box_sizes.png',
    'boxes_per_image.png',
}  # fmt: skip


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ''
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ('src', 'href', 'srcset', 'action', 'data')]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / 'data', random_rows(np.random.default_rng(5)))


def report(out, store, **options):
    page = write_report(out, store, measure(store, 0.8), **options)
    return Page(page.read_text())


def confusion_of(store):
    counts = np.zeros((store.num_classes, store.num_classes), dtype=int)
    counts[0, 1] = 3
    return Confusion(np.full(store.num_classes, 4), counts, counts)


def test_the_page_needs_no_other_file(store, tmp_path):
    page = report(tmp_path / 'report', store)
    assert len(page.addresses) == len(FIGURES)
    for address in page.addresses:
        kind, data = address.split(',')
        assert kind == 'data:image/png;base64'
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert not {'script', 'link', 'iframe'} & set(page.tags)
    html = (tmp_path / 'report' / 'index.html').read_text()
    assert 'http' not in html and 'url(' not in html


def test_the_figures_lie_beside_the_page_and_other_files_are_left_alone(store, tmp_path):
    (tmp_path / 'report').mkdir()
    (tmp_path / 'report' / 'notes.txt').write_text('mine')
    report(tmp_path / 'report', store)
    assert {path.name for path in (tmp_path / 'report').iterdir()} == {'index.html', 'notes.txt', *FIGURES}


def test_the_page_names_its_sources_thresholds_and_the_figures_of_the_paper(store, tmp_path):
    page = report(tmp_path / 'report', store, confusion=confusion_of(store), confusion_source='my model, score >= 0.3')
    for text in (str(store.path), 'IoU >= 0.8', 'Fig. 2', 'Fig. 3a', 'Fig. 3b', 'boxes.csv', 'my model, score >= 0.3'):
        assert text in page.text
    source = store.metadata['sources'][0]
    assert source['sha256'][:16] in page.text
    assert str(np.datetime64(source['modified_ns'], 'ns').astype('datetime64[D]')) in page.text
    assert (tmp_path / 'report' / 'confusion.png').exists()
    assert 'What a model confuses' not in report(tmp_path / 'other', store).text


def test_names_are_escaped(tmp_path):
    files = write_files(tmp_path / 'official')
    hostile = ['<script>alert(1)</script>', '$x_1$ & "y"', *(line.split(',')[1] for line in CLASSES[2:])]
    lines = [f'{line.split(",")[0]},"{name.replace(chr(34), chr(34) * 2)}"' for line, name in zip(CLASSES, hostile)]
    (tmp_path / 'official' / 'classes.csv').write_text('\n'.join(lines) + '\n')
    convert(tmp_path / 'store', **files)
    page = report(tmp_path / 'report', AnnotationStore(tmp_path / 'store'))
    assert 'script' not in page.tags
    assert hostile[0] in page.text and hostile[1] in page.text


def test_headlines_are_the_numbers_of_the_store(store):
    found = measure(store, 0.8)
    told = dict(headlines(store, found))
    assert told['images'] == '4' and told['boxes'] == '48, 12.0 an image'
    objects = found.label_set_sizes.annotated
    assert told['objects with several labels'].startswith(f'{objects[2:].sum()} of {objects.sum()} (')
    i, j, together = found.level.concurrence.top_pairs(1)[0]
    assert told['pairs of classes on one object'].endswith(
        f'most frequent {store.class_names[i]} and {store.class_names[j]} ({together})'
    )
    assert told['group-of boxes'].endswith(f'{(store.is_group_of == -1).sum()} unknown')


def test_a_store_without_boxes_has_a_report(tmp_path):
    page = report(tmp_path / 'report', make_store(tmp_path / 'data', []))
    assert 'of the rarest class with any' in page.text and 'unknown' in page.text


def test_classes_are_drawn_by_falling_number_of_images_beside_those_of_coco():
    counts = np.array([3, 0, 20, 7])
    ax = draw_imbalance(Imbalance(counts, counts, counts * 2), coco=np.array([5, 9])).axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[20, 7, 3], [40, 14, 6], [9, 5]]
    assert ax.get_yscale() == 'log'
    assert '3 classes, 20 to 3' in ax.get_legend().get_texts()[0].get_text()


def bars_of(figure):
    ax = figure.axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    return names, [bar.get_width() for bar in ax.patches], [text.get_text() for text in ax.texts]


def test_a_pair_is_drawn_with_both_rates_and_its_objects():
    together = np.array([[0, 1, 2], [1, 0, 0], [2, 0, 0]])
    figure = draw_label_pairs(Concurrence(np.array([4, 1, 8]), together), ['a', 'b', 'c'])
    assert bars_of(figure) == (['a · c', 'a · b'], [0.5, 0.25, 0.25, 1.0], ['2', '1'])


def test_small_rates_fill_the_figure_too():
    together = np.array([[0, 4], [4, 0]])
    figure = draw_label_pairs(Concurrence(np.array([2000, 4000]), together), ['a', 'b'])
    assert figure.axes[0].get_xlim()[1] == pytest.approx(1.15 * 0.002)


def test_confusions_are_drawn_from_annotated_to_predicted():
    counts = np.array([[0, 0], [3, 0]])
    assert bars_of(draw_confusion(Confusion(np.array([1, 4]), counts, counts), ['a', 'b'])) == (
        ['b → a'],
        [0.75],
        ['3'],
    )


def test_parents_and_groups_are_drawn_by_falling_number():
    absence = LeafAbsence(np.array([0, 2, 1]), np.array([4, 10, 0]), np.array([1, 5, 0]))
    assert bars_of(draw_leaf_absence(absence, ['a', 'b', 'c'])) == (['c', 'a'], [0.5, 0.25], ['10', '4'])
    groups = GroupOf(np.array([9, 5, 3]), np.array([1, 0, 3]), np.array([0, 5, 0]))
    assert bars_of(draw_group_of(groups, ['a', 'b', 'c'])) == (['c', 'a'], [0.5, 0.1], ['3', '1'])


def test_label_sets_are_drawn_before_and_after_expansion():
    ax = draw_label_set_sizes(LabelSetSizes(np.array([0, 12345, 2]), np.array([0, 0, 7, 5]))).axes[0]
    assert [bar.get_height() for bar in ax.patches] == [12345, 2, 7, 5]
    assert [text.get_text() for text in ax.texts] == ['12.3k', '2', '7', '5']


def test_figures_without_anything_to_show_say_so(tmp_path):
    none = Concurrence(np.zeros(2, dtype=int), np.zeros((2, 2), dtype=int))
    figure = draw_label_pairs(none, ['a', 'b'])
    assert bars_of(figure) == ([], [], ['none'])
    assert save(figure, tmp_path / 'none.png').exists()
    zero = np.zeros(2, dtype=int)
    assert bars_of(draw_group_of(GroupOf(zero, zero, np.array([0, 5])), ['a', 'b']))[2] == [
        'the annotations do not say'
    ]
    assert bars_of(draw_group_of(GroupOf(np.array([0, 5]), zero, zero), ['a', 'b']))[2] == ['none']


def test_images_are_drawn_by_their_number_of_boxes():
    ax = draw_boxes_per_image(np.array([4, 0, 7])).axes[0]
    (steps,) = ax.patches
    assert steps.get_data().values.tolist() == [4, 0, 7]
    assert steps.get_data().edges.tolist() == [-0.5, 0.5, 1.5, 2.5]
    assert ax.get_yscale() == 'log' and ax.get_ylim()[1] > 7


def test_long_names_are_cut_and_dollars_are_no_mathematics(tmp_path):
    together = np.array([[0, 1], [1, 0]])
    names = ['A name that is far too long for an axis', '$x_']
    figure = draw_label_pairs(Concurrence(np.ones(2, dtype=int), together), names)
    assert bars_of(figure)[0] == [r'A name that is far too lon… · \$x_']
    assert save(figure, tmp_path / 'names.png').exists()
