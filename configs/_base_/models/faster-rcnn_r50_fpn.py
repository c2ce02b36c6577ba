# Faster R-CNN R-50-FPN on label sets, with concurrent softmax. A child sets what depends on the data: num_classes,
# loss_cls.concurrent_rates and the two hierarchies.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py']

model = dict(
    roi_head=dict(
        bbox_head=dict(
            type='LabelSetBBoxHead',
            num_classes=500,
            loss_cls=dict(
                _delete_=True,
                type='ConcurrentSoftmaxLoss',
                num_classes=500,
                concurrent_rates=None,
                hierarchy=None,
                loss_weight=1.0,
            ),
        )
    ),
    train_cfg=dict(
        rcnn=dict(
            sampler=dict(
                _delete_=True,
                type='LabelSetSampler',
                num_classes=500,
                hierarchy=None,
                same_object_iou=0.9,
                sampler=dict(
                    type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
                ),
            )
        )
    ),
    # A label set puts several detections on one object: mmdet's 0.05 and 100 would cut them off.
    test_cfg=dict(rcnn=dict(score_thr=0.01, max_per_img=300)),
)
