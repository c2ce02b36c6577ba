_base_ = [
    '../_base_/models/faster-rcnn_r18-small_fpn.py',
    '../_base_/datasets/synthetic_small.py',
    '../_base_/schedules/hybrid_3e-2e_small.py',
    '../_base_/default_runtime.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes={{_base_.num_classes}},
            loss_cls=dict(
                num_classes={{_base_.num_classes}},
                concurrent_rates={{_base_.concurrent_rates}},
                hierarchy={{_base_.train_store}},
            ),
        )
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num_classes={{_base_.num_classes}}, hierarchy={{_base_.train_store}}))),
)

default_hooks = dict(checkpoint=dict(iter_interval=50))  # an epoch is short here
