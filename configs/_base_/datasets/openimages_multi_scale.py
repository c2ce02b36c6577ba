# Training and testing at five scales, which are our choice. tools/test.py --tta uses tta_pipeline.
_base_ = ['./openimages.py']

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile', color_type='color_ignore_orientation', backend_args=None),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='RandomChoiceResize',
                scales=[(800, 480), (1066, 640), (1333, 800), (1600, 960), (1866, 1120)],
                keep_ratio=True,
            ),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ]
    )
)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type='Resize', scale=scale, keep_ratio=True)
    for scale in [(800, 480), (1066, 640), (1333, 800), (1600, 960), (1866, 1120)]
]
