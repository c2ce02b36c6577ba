"""The benchmarks run, and their stand-in has the shape that they say."""

import json

import numpy as np
import pytest

from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.tool_runs import tool
from tools.benchmarks import full_size


def bench(name, path, *arguments):
    """The figures of a benchmark, which it writes to ``path``."""
    tool(name, *arguments, '--out', path)
    return json.loads(path.read_text())


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


def test_the_loss_benchmark_writes_its_figures(tmp_path):
    results = bench('bench_losses', tmp_path / 'losses.json', '--rows', 64, '--classes', 20, '--repeat', 3)
    losses, scores = (run['figures'] for run in results['runs'])
    assert set(losses) == {'cross-entropy', 'concurrent softmax'} and set(scores) == {'softmax', 'Eq. 5'}
    assert all(figure > 0 for figures in (losses | scores).values() for figure in figures.values())


def test_the_metric_benchmark_finds_mmdets_figures_equal_once_its_input_is_repaired(tmp_path):
    sizes = ('--images', 12, '--large-images', 24, '--large-per-image', 30)
    results = bench('bench_metric', tmp_path / 'metric.json', *sizes)
    assert 0 < results['mmoid']['mAP'] < 1 and results['largest_difference'] < 1e-6  # mmdet sums in float32
    assert results['large']['seconds'] > 0 and results['large']['peak_mib'] > results['large']['before_mib']


@pytest.mark.slow
def test_the_benchmarks_of_training_data_and_sampler_run_ours_and_mmdets(tmp_path):
    sizes = ('--scale', 128, 96, '--images', 6, '--iterations', 2, '--warm-up', 1, '--rounds', 1, '--workers', 0)
    trained = bench('bench_train', tmp_path / 'train.json', *sizes)['train']
    assert {row['kind'] for row in trained} == {'stock softmax', 'concurrent softmax'}
    assert all(row['iterations_per_second'] > 0 and 0 < row['data_share'] < 1 for row in trained)

    files = ('--images', 2000, '--folder', tmp_path / 'files')
    data = bench('bench_data', tmp_path / 'data.json', *files)
    assert data['stock_images'] == 200 and all(figures['s'] > 0 for figures in data['once'].values())
    assert set(data['mmoid']) == set(data['stock']) and min(data['mmoid'].values()) > 0
    samplers = bench('bench_sampler', tmp_path / 'sampler.json', *files)['samplers']
    assert len(samplers) == 5 and all(figures['both, s'] > 0 for figures in samplers.values())
