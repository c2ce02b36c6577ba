# A prepared set at 160 pixels, to try the whole method on a laptop.
_base_ = ['./openimages.py']

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = (160, 160)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (160, 160)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [dict(type='Resize', scale=(side, side), keep_ratio=True) for side in (160, 224)]

train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
