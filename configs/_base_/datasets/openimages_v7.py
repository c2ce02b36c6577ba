# Open Images V4 to V7 with its 601 classes, prepared like the challenge from the files of
#   python tools/misc/download_openimages.py --release v7 --out data/openimages-v7/annotations
_base_ = ['./openimages.py']

data_root = '{{$MMOID_V7_ROOT:data/openimages-v7}}'

train_dataloader = dict(dataset=dict(ann_file=f'{data_root}/train'))
val_dataloader = dict(dataset=dict(ann_file=f'{data_root}/validation'))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=f'{data_root}/validation', train_ann_file=f'{data_root}/train')
test_evaluator = val_evaluator
