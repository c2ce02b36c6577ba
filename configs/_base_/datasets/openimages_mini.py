# The mini set of Sec. 5.1, 115k + 5k images with the class ratios of the challenge's:
#   python tools/dataset_converters/make_mini_openimages.py data/openimages/train --out data/openimages-mini
#   python tools/analysis_tools/concurrent_rates.py data/openimages-mini/train --out data/openimages-mini/concurrent_rates.npz
# Its own variable, so that MMOID_DATA_ROOT never makes a mini recipe train on all images.
_base_ = ['./openimages.py']

data_root = '{{$MMOID_MINI_ROOT:data/openimages-mini}}'

train_store = f'{data_root}/train'
validation_store = f'{data_root}/validation'
concurrent_rates = f'{data_root}/concurrent_rates.npz'

data_of_model = dict(
    roi_head=dict(bbox_head=dict(loss_cls=dict(concurrent_rates=concurrent_rates, hierarchy=train_store))),
    train_cfg=dict(rcnn=dict(sampler=dict(hierarchy=train_store))),
)

train_dataloader = dict(dataset=dict(ann_file=train_store))
val_dataloader = dict(dataset=dict(ann_file=validation_store))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=validation_store, train_ann_file=train_store)
test_evaluator = val_evaluator
