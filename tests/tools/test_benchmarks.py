"""The benchmarks run, and their stand-in has the shape that they say."""

import json

import numpy as np
import pytest

from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.tool_runs import tool
from tools.benchmarks import full_size


def bench(name, tmp_path, *arguments):
    """The tables of a benchmark: figures by row and column."""
    tool(name, *arguments, '--out', tmp_path / 'figures.json')
    return list(json.loads((tmp_path / 'figures.json').read_text())['tables'].values())


def test_the_stand_in_has_the_challenges_counts():
    counts = full_size.class_box_counts(full_size.NUM_BOXES)
    assert len(counts) == 500 and counts.sum() == 12_400_000
    assert counts[0] == 1_400_000 and counts[-1] == 14
    assert (np.diff(np.delete(counts, 1)) <= 0).all()


def test_a_small_stand_in_keeps_the_proportions(tmp_path):
    full_size.write_annotations(tmp_path, num_images=2000)
    assert full_size.make_store(tmp_path) == {'images': 2000, 'boxes': 14_228}
    store = AnnotationStore(tmp_path / 'store')
    assert np.diff(store.box_stop, prepend=0).min() == 1
    assert store.class_box_counts.max() == round(1_400_000 * 14_228 / 12_400_000)
    assert store.image_ids() == sorted(store.image_ids())
    assert store.hierarchy.depth.max() == 3
    assert store.hierarchy.is_leaf.sum() == 500 - 62


@pytest.mark.slow
def test_the_loss_benchmark_writes_its_figures(tmp_path):
    (table,) = bench('bench_losses', tmp_path, '--rows', 64, '--classes', 20, '--repeat', 3)
    assert [name.split(', cpu')[0] for name in table] == ['cross-entropy', 'concurrent softmax', 'softmax', 'Eq. 5']
    assert all(figure > 0 for figures in table.values() for figure in figures.values())


@pytest.mark.slow
def test_the_metric_benchmark_finds_mmdets_figures_equal_once_its_input_is_repaired(tmp_path):
    (table,) = bench('bench_metric', tmp_path, '--images', 12)
    assert 0 < table['mmoid']['mAP'] < 1 and table['mmoid']['peak MiB'] > table['mmoid']['input, MiB']
    assert table['mmdet']['AP differs by at most'] < 1e-6  # mmdet sums in float32


@pytest.mark.slow
def test_the_benchmarks_of_training_data_and_sampler_run_ours_and_mmdets(tmp_path):
    sizes = ('--scale', 128, 96, '--images', 6, '--iterations', 2, '--warm-up', 1, '--rounds', 1, '--workers', 0)
    (trained,) = bench('bench_train', tmp_path, *sizes)
    assert len(trained) == 2 and all(row['iterations/s'] > 0 for row in trained.values())
    files = ('--images', 2000, '--folder', tmp_path / 'files')
    data, once = bench('bench_data', tmp_path, *files)
    (samplers,) = bench('bench_sampler', tmp_path, *files)
    assert all(figures['s'] > 0 for figures in once.values())
    assert all(len(figures) == 2 and min(figures.values()) > 0 for figures in data.values())
    assert len(samplers) == 5 and all(figures['both, s'] > 0 for figures in samplers.values())
