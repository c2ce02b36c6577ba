# Table 1, concurrent softmax, images as they are; Table 2, trained with concurrent softmax.
# Table 2, tested with softmax: tools/test.py … --cfg-options model.roi_head.bbox_head.loss_cls.type=SoftmaxLoss
# Protocol: mini set, 115k + 5k images; 800/1333, flip; 7 epochs, x 0.1 after 4 and 6. Challenge mAP of the validation
#   images.
# mAP: paper: not stated (docs/configs.md says why); here: not run, needs the data set.
# Cost: 8 GPUs x 4 images (our choice), 7 epochs of 3,594 iterations; GPU hours not known.
# Run: bash tools/dist_train.sh configs/losses/faster-rcnn_r50_fpn_syncbn_concurrent-softmax_8xb4-1x_openimages-mini.py 8
_base_ = [
    '../_base_/models/faster-rcnn_r50_fpn_syncbn.py',
    '../_base_/datasets/openimages_mini.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = {{_base_.data_of_model}}
train_dataloader = dict(batch_size=4)
