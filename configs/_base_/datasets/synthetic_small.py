# The data that tools/quickstart.sh makes: tools/dataset_converters/make_synthetic_openimages.py, then prepared.
_base_ = ['./openimages_small.py']

data_root = 'data/synthetic'

train_dataloader = dict(dataset=dict(ann_file=f'{data_root}/train'))
val_dataloader = dict(dataset=dict(ann_file=f'{data_root}/validation'))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=f'{data_root}/validation', train_ann_file=f'{data_root}/train')
test_evaluator = val_evaluator
