# Table 4, ResNeXt-152 from scratch, hybrid 20 + 7 epochs, soft balance (λ = 0.7).
# Protocol: challenge, 500 classes, 1.7M images; 800/1333, flip; 20 epochs of shuffled images, x 0.1 after 11 and 17
#   (our choice), then 7 of soft balance from the initial lr, x 0.1 after 4 and 6. Challenge mAP of the validation
#   images.
# mAP: paper: 67.09 (Table 4, soft balance, non-balance S20, 20+7); here: not run, needs the data set.
# Cost: 16 GPUs x 2 images (our choice), 27 epochs of 53,125 iterations; GPU hours not known.
# Run: NNODES=2 NODE_RANK=<0|1> MASTER_ADDR=<host> bash tools/dist_train.sh configs/hybrid/faster-rcnn_x152-32x4d_fpn_syncbn-scratch_16xb2-hybrid-20e-7e_openimages-challenge.py 8
_base_ = [
    '../_base_/models/label-set_faster-rcnn_x152-32x4d_fpn_syncbn-scratch.py',
    '../_base_/datasets/openimages.py',
    '../_base_/schedules/hybrid_20e-7e.py',
    '../_base_/default_runtime.py',
]
