# Table 4, ResNeXt-152 from ImageNet, 7 epochs.
# Protocol: challenge, 500 classes, 1.7M images; 800/1333, flip; 7 epochs, x 0.1 after 4 and 6. Challenge mAP of the
#   validation images.
# mAP: paper: 56.06 (Table 4, non-balance, ImageNet, 7); here: not run, needs the data set.
# Cost: 16 GPUs x 2 images (our choice), 7 epochs of 53,125 iterations; GPU hours not known.
# Run: NNODES=2 NODE_RANK=<0|1> MASTER_ADDR=<host> bash tools/dist_train.sh configs/hybrid/faster-rcnn_x152-32x4d_fpn_syncbn_16xb2-7e_openimages-challenge.py 8
_base_ = [
    '../_base_/models/label-set_faster-rcnn_x152-32x4d_fpn_syncbn.py',
    '../_base_/datasets/openimages.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
