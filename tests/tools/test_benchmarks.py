"""The benchmarks run, and their stand-in has the shape that they say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tools.benchmarks import full_size

ROOT = Path(__file__).parents[2]


def bench(name, *arguments):
    command = [sys.executable, f'tools/benchmarks/{name}.py', *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=900)


def test_the_stand_in_has_the_challenges_counts():
    counts = full_size.class_box_counts(full_size.NUM_BOXES)
    assert len(counts) == 500 and counts.sum() == 12_400_000
    assert counts[0] == 1_400_000 and counts[-1] == 14
    assert (np.diff(np.delete(counts, 1)) <= 0).all()


def test_a_small_stand_in_keeps_the_proportions(tmp_path):
    files = full_size.write_annotations(tmp_path, num_images=2000)
    summary = convert(tmp_path / 'store', **files)
    assert (summary.images, summary.boxes, summary.classes) == (2000, 14_228, 500)
    assert summary.images_without_boxes == 0
    store = AnnotationStore(tmp_path / 'store')
    assert store.class_box_counts.max() == round(1_400_000 * 14_228 / 12_400_000)
    assert store.image_ids() == sorted(store.image_ids())
    assert store.hierarchy.depth.max() == 3
    assert store.hierarchy.is_leaf.sum() == 500 - 62


def test_the_loss_benchmark_writes_its_figures(tmp_path):
    bench('bench_losses', '--rows', 64, '--classes', 20, '--repeat', 3, '--out', tmp_path / 'losses.json')
    (row,) = json.loads((tmp_path / 'losses.json').read_text())['losses']
    assert set(row['losses']) == {'cross-entropy', 'concurrent softmax'}
    assert all(figures['milliseconds'] > 0 and figures['peak_mib'] > 0 for figures in row['losses'].values())


def test_the_metric_benchmark_finds_mmdets_figures_equal_once_its_input_is_repaired(tmp_path):
    sizes = ('--images', 12, '--large-images', 24, '--large-per-image', 30)
    bench('bench_metric', *sizes, '--out', tmp_path / 'metric.json')
    results = json.loads((tmp_path / 'metric.json').read_text())
    assert results['mmdet']['equal'] and results['mmdet']['largest_difference'] < 1e-6
    assert 0 < results['mmoid']['mAP'] < 1
    assert results['mmdet']['mAP'] == pytest.approx(results['mmoid']['mAP'], abs=1e-6)
    assert results['large']['seconds'] > 0 and results['large']['peak_mib'] > results['large']['before_mib']


@pytest.mark.slow
def test_the_training_benchmark_compares_with_stock_softmax(tmp_path):
    sizes = ('--scale', 128, 96, '--images', 6, '--iterations', 2, '--warm-up', 1, '--rounds', 1, '--workers', 0)
    bench('bench_train', *sizes, '--out', tmp_path / 'train.json')
    results = json.loads((tmp_path / 'train.json').read_text())
    assert {row['kind'] for row in results['train']} == {'stock softmax', 'concurrent softmax'}
    for row in results['train']:
        assert row['iterations_per_second'] > 0 and row['peak_mib'] > 0
        assert 0 < row['data_share'] < 1 and 0 < row['loss_share'] < 1 - row['data_share']


@pytest.mark.slow
def test_the_data_benchmark_writes_its_figures(tmp_path):
    bench('bench_data', '--images', 2000, '--folder', tmp_path / 'files', '--out', tmp_path / 'data.json')
    results = json.loads((tmp_path / 'data.json').read_text())
    assert (results['images'], results['stock_images'], results['boxes']) == (2000, 200, 14_228)
    assert results['mmoid']['get_data_info_per_second'] > 0 and results['stock']['get_data_info_per_second'] > 0
    assert all(figures['seconds'] > 0 for figures in results['once'].values())


@pytest.mark.slow
def test_the_sampler_benchmark_runs_ours_and_mmdets(tmp_path):
    bench('bench_sampler', '--images', 2000, '--out', tmp_path / 'sampler.json')
    samplers = json.loads((tmp_path / 'sampler.json').read_text())['samplers']
    assert len(samplers) == 5 and all(figures['build_and_epoch_seconds'] > 0 for figures in samplers.values())
