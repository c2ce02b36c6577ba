# The mini set of Sec. 5.1, 115k + 5k images with the class ratios of the challenge:
#   python tools/dataset_converters/make_mini_openimages.py data/openimages/train --out data/openimages-mini
#   python tools/analysis_tools/concurrent_rates.py data/openimages-mini/train --out data/openimages-mini/concurrent_rates.npz
# It has its own variable, so that MMOID_DATA_ROOT never makes a mini recipe train on all images.
_base_ = ['./openimages.py']

data_root = '{{$MMOID_MINI_ROOT:data/openimages-mini}}'

train_dataloader = dict(dataset=dict(ann_file=f'{data_root}/train'))
val_dataloader = dict(dataset=dict(ann_file=f'{data_root}/validation'))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=f'{data_root}/validation', train_ann_file=f'{data_root}/train')
test_evaluator = val_evaluator
