# Batch normalization learns, over the images of all GPUs; the first stage stays frozen, as in mmdet.
_base_ = ['./label-set_faster-rcnn_r50_fpn.py']

sync_bn = 'torch'  # mmengine's Runner converts the layers if there are several processes

model = dict(backbone=dict(norm_eval=False))
