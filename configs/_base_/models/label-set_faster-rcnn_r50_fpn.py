# Faster R-CNN R-50-FPN trained on label sets of the 500 classes of the Open Images Challenge.
# A config swaps the loss by its `type`. The head passes on the keys of loss_cls that the loss has, and gives the number
# of classes and the hierarchy to the loss and to the RoI sampler.
# For another prepared set: MMOID_DATA_ROOT=data/fruit MMOID_NUM_CLASSES=4 bash tools/dist_train.sh ...
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py']

model = dict(
    roi_head=dict(
        bbox_head=dict(
            type='LabelSetBBoxHead',
            num_classes=int('{{$MMOID_NUM_CLASSES:500}}'),
            loss_cls=dict(
                _delete_=True,
                type='SoftmaxLoss',
                concurrent_rates='{{$MMOID_DATA_ROOT:data/openimages}}/concurrent_rates.npz',
                hierarchy='{{$MMOID_DATA_ROOT:data/openimages}}/train',
            ),
        )
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(type='LabelSetSampler', sampler='RandomSampler'))),
    # A label set puts several detections on one object: mmdet's 0.05 and 100 would cut them off.
    test_cfg=dict(rcnn=dict(score_thr=0.01, max_per_img=300)),
)
