default_scope = 'mmdet'
custom_imports = dict(imports=['mmoid.registry'])

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # epoch_<n>.pth, and iter_<n>.pth inside the long epochs; --resume continues exactly from the newest intact one.
    checkpoint=dict(
        type='ResumableCheckpointHook',
        interval=1,
        iter_interval=2000,
        max_keep_ckpts=3,
        save_best='openimages/mAP',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    class_order=dict(type='ClassOrderCheckHook'),
    invalid_loss=dict(type='InvalidLossHook'),
    log_history=dict(type='LogHistoryHook'),  # else month-long runs slow down
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

# ResumableEpochTrainLoop needs a fixed one: samplers are built before a checkpoint brings its seed back.
randomness = dict(seed=0)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False

# tools/test.py --tta; weighted boxes fusion instead: tta_cfg=dict(_delete_=True, fusion=dict(method='wbf'), max_per_img=300)
tta_model = dict(type='LabelSetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=300))
