"""tools/analysis_tools/plan_training.py tells what a config will do, without data."""

from tests.tool_runs import tool

CONFIG = (
    'configs/hybrid/faster-rcnn_x152-32x4d_fpn_syncbn-scratch_concurrent-softmax_16xb2-hybrid-20e-7e_'
    'openimages-challenge.py'
)


def test_stages_samplers_and_rates_are_told_in_full_at_any_width():
    done = tool('plan_training', CONFIG, '--gpus', 16, '--images', 1_674_979)
    assert 'natural: 20 epochs of DefaultSampler, shuffle True' in done.stdout
    assert 'soft balance: 7 epochs of SoftBalanceClassAwareSampler, balance 0.7' in done.stdout
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in done.stdout.splitlines() if '│' in line]
    assert rows[4:] == [
        ['soft balance', '20 - 24', '1,046,880 - 1,256,256', '0.04'],
        ['', '24 - 26', '1,256,256 - 1,360,944', '0.004'],
        ['', '26 - 27', '1,360,944 - 1,413,288', '0.0004'],
    ]
    assert rows[0][:2] == ['natural', '0 - 0.01909'] and rows[0][3] == '4e-05 to 0.03996', 'the warm-up'
    assert '52,344 iterations of 32 images an epoch, 1,413,288 in all.' in done.stdout
