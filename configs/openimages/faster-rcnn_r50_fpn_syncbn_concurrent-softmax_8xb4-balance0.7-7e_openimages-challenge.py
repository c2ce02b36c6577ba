# Stage 2 alone, to fine-tune a detector that others published; no row of the paper.
# Protocol: challenge, 500 classes, 1.7M images; 800/1333, flip; 7 epochs of soft balance, x 0.1 after 4 and 6.
#   Challenge mAP of the validation images.
# mAP: paper: none; here: not run, needs the data set and the published weights.
# Cost: 8 GPUs x 4 images (our choice), 7 epochs of 53,125 iterations; GPU hours not known.
# Run: bash tools/dist_train.sh configs/openimages/faster-rcnn_r50_fpn_syncbn_concurrent-softmax_8xb4-balance0.7-7e_openimages-challenge.py 8
# Add --cfg-options load_from=...: a checkpoint from tools/misc/convert_checkpoint.py (docs/training.md).
_base_ = [
    '../_base_/models/label-set_faster-rcnn_r50_fpn_syncbn.py',
    '../_base_/datasets/openimages.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type='ConcurrentSoftmaxLoss'))))
train_dataloader = dict(batch_size=4, sampler=dict(_delete_=True, type='SoftBalanceClassAwareSampler', balance=0.7))
