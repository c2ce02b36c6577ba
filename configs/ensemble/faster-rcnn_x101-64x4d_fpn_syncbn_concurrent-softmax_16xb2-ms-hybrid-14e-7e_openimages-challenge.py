# Table 5, ResNeXt-101 from ImageNet, multi-scale training and testing; a member of the ensemble.
# Multi-scale testing: tools/test.py ... --tta --out work_dirs/predictions/<name>. The ensemble: docs/configs.md.
# Protocol: challenge, 500 classes, 1.7M images; 480 to 1120 pixels, flip; 14 epochs of shuffled images, x 0.1 after 8
#   and 12 (our choice), then 7 of soft balance from the initial lr, x 0.1 after 4 and 6. Challenge mAP of the
#   validation images.
# mAP: paper: none alone; 67.17 of the ensemble on the public test set (Table 5); here: not run, needs the data set.
# Cost: 16 GPUs x 2 images (our choice), 21 epochs of 53,125 iterations; GPU hours not known.
# Run: NNODES=2 NODE_RANK=<0|1> MASTER_ADDR=<host> bash tools/dist_train.sh configs/ensemble/faster-rcnn_x101-64x4d_fpn_syncbn_concurrent-softmax_16xb2-ms-hybrid-14e-7e_openimages-challenge.py 8
_base_ = [
    '../_base_/models/label-set_faster-rcnn_x101-64x4d_fpn_syncbn.py',
    '../_base_/datasets/openimages_multi_scale.py',
    '../_base_/schedules/hybrid_14e-7e.py',
    '../_base_/default_runtime.py',
]

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type='ConcurrentSoftmaxLoss'))))
