# What tools/quickstart.sh makes: tools/dataset_converters/make_synthetic_openimages.py, prepared like any other set.
_base_ = ['./openimages_small.py']

data_root = 'data/synthetic'
num_classes = 37

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
