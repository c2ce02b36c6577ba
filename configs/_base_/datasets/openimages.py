# The Open Images Challenge with its 500 classes, prepared: DATA_ROOT/train and DATA_ROOT/validation are stores
# (tools/dataset_converters/prepare_openimages.py), DATA_ROOT/concurrent_rates.npz comes from
# tools/analysis_tools/concurrent_rates.py. MMOID_DATA_ROOT=data/fruit trains on another prepared set.
data_root = '{{$MMOID_DATA_ROOT:data/openimages}}'
backend_args = None

# Boxes of Open Images fit the stored pixels: the EXIF orientation is ignored. Stores of other formats change color_type.
train_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation', backend_args=backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation', backend_args=backend_args),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    # After Resize: predictions are scaled back to the original size, as the drawn ground truth is.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
tta_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation', backend_args=backend_args),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(1333, 800), keep_ratio=True)],
            [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=(
                        'img_id',
                        'img_path',
                        'ori_shape',
                        'img_shape',
                        'scale_factor',
                        'flip',
                        'flip_direction',
                    ),
                )
            ],
        ],
    ),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='OpenImagesHierarchyDataset',
        ann_file=f'{data_root}/train',
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
        ann_file=f'{data_root}/validation',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

# train_ann_file tells head, middle and tail classes apart.
val_evaluator = dict(
    type='OpenImagesChallengeMetric', ann_file=f'{data_root}/validation', train_ann_file=f'{data_root}/train'
)
test_evaluator = val_evaluator
