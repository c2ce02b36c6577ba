# The whole method with R-50 on 601 classes; no row of the paper.
# Protocol: Open Images V4 to V7, 601 classes, 1.7M images; 800/1333, flip; 14 epochs of shuffled images, x 0.1 after 8
#   and 12 (our choice), then 7 of soft balance from the initial lr, x 0.1 after 4 and 6. Challenge mAP of the
#   validation images.
# mAP: paper: none; here: not run, needs the data set.
# Cost: 8 GPUs x 4 images (our choice), 21 epochs of 53,125 iterations; GPU hours not known.
# Run: bash tools/dist_train.sh configs/openimages/faster-rcnn_r50_fpn_syncbn_concurrent-softmax_8xb4-hybrid-14e-7e_openimages-v7.py 8
_base_ = [
    '../_base_/models/label-set_faster-rcnn_r50_fpn_syncbn.py',
    '../_base_/datasets/openimages_v7.py',
    '../_base_/schedules/hybrid_14e-7e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=601,
            loss_cls=dict(
                type='ConcurrentSoftmaxLoss',
                concurrent_rates=f'{_base_.data_root}/concurrent_rates.npz',
                hierarchy=f'{_base_.data_root}/train',
            ),
        )
    )
)
train_dataloader = dict(batch_size=4)
