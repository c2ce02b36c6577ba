# A small detector on any prepared set; no row of the paper.
# Protocol: 160 pixels, flip; 3 + 2 epochs, the last of soft balance. Challenge mAP of the validation images.
# mAP: paper: none; here: depends on the set.
# Cost: 2 processes x 4 images; it needs no GPU.
# Run: MMOID_DATA_ROOT=<data root> MMOID_NUM_CLASSES=<classes> bash tools/dist_train.sh configs/openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py 2
_base_ = [
    '../_base_/models/label-set_faster-rcnn_r18-small_fpn.py',
    '../_base_/datasets/openimages_small.py',
    '../_base_/schedules/hybrid_3e-2e_small.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(iter_interval=50))  # an epoch is short here
