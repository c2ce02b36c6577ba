# RetinaNet R-50 on label sets; no row of the paper.
# Protocol: challenge, 500 classes, 1.7M images; 800/1333, flip; 14 epochs of shuffled images, x 0.1 after 8 and 12, then
#   7 of soft balance from the initial lr, x 0.1 after 4 and 6. Challenge mAP of the validation images.
# mAP: paper: none; here: not run, needs the data set.
# Cost: 8 GPUs x 4 images (our choice), 21 epochs of 53,125 iterations; GPU hours not known.
# Run: bash tools/dist_train.sh configs/label_sets/retinanet_r50_fpn_concurrent-focal_8xb4-hybrid-14e-7e_openimages-challenge.py 8
_base_ = [
    '../_base_/models/label-set_retinanet_r50_fpn.py',
    '../_base_/datasets/openimages.py',
    '../_base_/schedules/hybrid_14e-7e.py',
    '../_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=0.02))  # mmdet's 0.01 for 16 images
