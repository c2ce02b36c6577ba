# A prepared set, the Open Images Challenge with its 500 classes: DATA_ROOT/train and DATA_ROOT/validation are stores
# (tools/dataset_converters/prepare_openimages.py), DATA_ROOT/concurrent_rates.npz comes from tools/analysis_tools/concurrent_rates.py.
# Another one: MMOID_DATA_ROOT=data/fruit MMOID_NUM_CLASSES=4 bash tools/dist_train.sh …, or change the two lines.
data_root = '{{$MMOID_DATA_ROOT:data/openimages}}'
num_classes = int('{{$MMOID_NUM_CLASSES:500}}')

train_store = f'{data_root}/train'
validation_store = f'{data_root}/validation'
concurrent_rates = f'{data_root}/concurrent_rates.npz'

# What a label-set detector takes from the data. A config joins the two by: model = {{_base_.data_of_model}}
data_of_model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=num_classes,
            loss_cls=dict(num_classes=num_classes, concurrent_rates=concurrent_rates, hierarchy=train_store),
        )
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num_classes=num_classes, hierarchy=train_store))),
)

backend_args = None

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=backend_args),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    # After Resize: predictions are brought back to the original size, as the drawn ground truth is.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=backend_args),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(1333, 800), keep_ratio=True)],
            [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=(
                        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction',
                    ),
                )
            ],
        ],
    ),
]  # fmt: skip

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='OpenImagesHierarchyDataset',
        ann_file=train_store,
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='OpenImagesHierarchyDataset',
        ann_file=validation_store,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

# train_ann_file: what head, middle and tail classes are told by.
val_evaluator = dict(type='OpenImagesChallengeMetric', ann_file=validation_store, train_ann_file=train_store)
test_evaluator = val_evaluator
