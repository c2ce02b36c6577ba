# RetinaNet R-50-FPN trained on label sets of the 500 classes of the Open Images Challenge.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py']

model = dict(
    bbox_head=dict(
        type='LabelSetRetinaHead',
        num_classes=int('{{$MMOID_NUM_CLASSES:500}}'),
        loss_cls=dict(
            type='ConcurrentFocalLoss',
            concurrent_rates='{{$MMOID_DATA_ROOT:data/openimages}}/concurrent_rates.npz',
            hierarchy='{{$MMOID_DATA_ROOT:data/openimages}}/train',
        ),
    ),
    # A label set puts several detections on one object: mmdet's 0.05 and 100 would cut them off.
    test_cfg=dict(score_thr=0.01, max_per_img=300),
)
