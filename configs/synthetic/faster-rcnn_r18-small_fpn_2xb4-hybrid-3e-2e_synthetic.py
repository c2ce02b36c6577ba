# The quickstart; no row of the paper.
# Protocol: a generated world (tools/quickstart.sh); 160 pixels, flip; 3 + 2 epochs, the last of soft balance. Challenge
#   mAP of the validation images.
# mAP: paper: none; here: 0.854 (bash tools/quickstart.sh).
# Cost: 2 processes x 4 images; 8 minutes on two cores, test and figures included.
# Run: bash tools/dist_train.sh configs/synthetic/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_synthetic.py 2
_base_ = [
    '../_base_/models/label-set_faster-rcnn_r18-small_fpn.py',
    '../_base_/datasets/synthetic_small.py',
    '../_base_/schedules/hybrid_3e-2e_small.py',
    '../_base_/default_runtime.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=37,
            loss_cls=dict(
                concurrent_rates=f'{_base_.data_root}/concurrent_rates.npz',
                hierarchy=f'{_base_.data_root}/train',
            ),
        )
    )
)
default_hooks = dict(checkpoint=dict(iter_interval=50))  # an epoch is short here
