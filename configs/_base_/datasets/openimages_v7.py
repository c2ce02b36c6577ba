# Open Images V4 to V7 with its 601 classes, prepared like the challenge's set from the files of
#   python tools/misc/download_openimages.py --release v7 --out data/openimages-v7/annotations
_base_ = ['./openimages.py']

data_root = '{{$MMOID_V7_ROOT:data/openimages-v7}}'
num_classes = 601

train_store = f'{data_root}/train'
validation_store = f'{data_root}/validation'
concurrent_rates = f'{data_root}/concurrent_rates.npz'

data_of_model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=num_classes,
            loss_cls=dict(num_classes=num_classes, concurrent_rates=concurrent_rates, hierarchy=train_store),
        )
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num_classes=num_classes, hierarchy=train_store))),
)

train_dataloader = dict(dataset=dict(ann_file=train_store))
val_dataloader = dict(dataset=dict(ann_file=validation_store))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=validation_store, train_ann_file=train_store)
test_evaluator = val_evaluator
