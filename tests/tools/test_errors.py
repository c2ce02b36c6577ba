"""An error of a tool is one line, before it computes anything."""

import pytest

from tests.tool_runs import SMALL_CONFIG, data_environment, run, tool

RATES = 'model.roi_head.bbox_head.loss_cls.concurrent_rates=nowhere.npz'
NO_FOLDER = 'error: nowhere: no such folder'


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('train', [SMALL_CONFIG, '--cfg-options', RATES], 'loss_cls.concurrent_rates = nowhere.npz: no such file'),
        ('test', [SMALL_CONFIG, 'x.pth', '--out', 'LICENSE/x'], 'LICENSE is not a writable directory; give another'),
        ('plan_training', [SMALL_CONFIG, '--gpus', 0], 'argument --gpus: must be at least 1, got 0'),
        ('plan_training', [SMALL_CONFIG, '--cfg-options', 'train_dataloader.dataset.ann_file=nowhere'], NO_FOLDER),
        ('prepare_openimages', ['--classes', 'nowhere.csv', '--images', '.', '--out', 'o'], 'error: nowhere.csv: '),
        ('import_parquet', ['x', '--images', 'LICENSE', '--out', 'o'], 'error: LICENSE: is a file, where a folder is'),
        ('make_mini_openimages', ['nowhere', '--train', 0, '--out', 'o'], '--train: must be at least 1, got 0'),
        ('concurrent_rates', ['nowhere', '--out', 'o'], NO_FOLDER),
        ('report_openimages', ['nowhere', '--out', 'o'], NO_FOLDER),
        ('plan_sampling', ['nowhere'], NO_FOLDER),
        ('show_predictions', ['--store', 'nowhere', '--predictions', 'x.csv'], NO_FOLDER),
        ('evaluate_predictions', ['--predictions', 'x.csv', '--boxes', 'b.csv'], '--classes: needed, unless --store'),
        ('evaluate_predictions', ['--predictions', 'x.csv', '--store', 's', '--labels', 'l'], 'leave --labels out'),
        ('evaluate_predictions', ['--predictions', 'x.csv', '--store', 'nowhere'], NO_FOLDER),
        ('make_submission', ['nowhere.csv', '--out', 'o'], 'error: nowhere.csv: cannot be read'),
        ('compare_predictions', ['a', 'b', '--store', 'nowhere'], NO_FOLDER),
        ('ensemble', ['nowhere', '--out', 'o'], 'error: nowhere: cannot be read'),
        ('plot_class_ap', ['a.json', 'b.json', '--store', 'nowhere', '--out', 'o'], NO_FOLDER),
    ],
)
def test_errors_are_one_line(name, arguments, message, tiny_data, tmp_path):
    work_dir = ['--work-dir', tmp_path] if name in ('train', 'test') else []
    done = tool(name, *arguments, *work_dir, check=False, **data_environment(tiny_data))
    assert done.returncode in (1, 2) and message in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr and 'Epoch(' not in done.stdout


@pytest.mark.parametrize('name', ['dist_train', 'dist_test', 'dist_predict', 'slurm_train', 'slurm_test'])
def test_launchers_without_arguments_print_their_usage(name):
    done = run('bash', f'tools/{name}.sh', check=False)
    usage = 'PARTITION JOB_NAME CONFIG' if 'slurm' in name else 'CONFIG'
    assert done.returncode == 2 and f'bash tools/{name}.sh {usage}' in done.stderr
