# Pipelines for a config that trains and tests at several scales (which ones is our choice); it says
#   train_dataloader = dict(dataset=dict(pipeline={{_base_.multi_scale_train_pipeline}}))
#   tta_pipeline = {{_base_.multi_scale_tta_pipeline}}        # used by tools/test.py --tta
shorter_sides = (480, 640, 800, 960, 1120)

multi_scale_train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales=[(side * 5 // 3, side) for side in shorter_sides], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
multi_scale_tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(side * 5 // 3, side), keep_ratio=True) for side in shorter_sides],
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
