"""Detectors that a test can afford."""


def narrow(model):
    """Makes the networks of a detector's config narrow and flat; every part that it names stays. Returns the config."""
    backbone, roi_head = model.backbone, model.get('roi_head')
    neck, *other_necks = model.neck if isinstance(model.neck, list) else [model.neck]
    backbone.init_cfg = None
    if backbone.type == 'CSPNeXt':
        backbone.update(deepen_factor=0.167, widen_factor=0.25)
        neck.in_channels = [64, 128, 256]
    elif backbone.type == 'EfficientNet':
        backbone.arch = 'b0'
        neck.in_channels = [24, 40, 112, 320]
    elif backbone.type == 'ResNeXt':
        backbone.update(depth=50, base_channels=8, groups=2)
        neck.in_channels = [32, 64, 128, 256]
    else:
        backbone.update(depth=18, base_channels=8)
        neck.in_channels = [8, 16, 32, 64]
    if 'encoder' in model:
        neck.in_channels = [16, 32, 64]
        model.encoder.num_layers, model.decoder.num_layers, model.num_queries = 1, 2, 30
        return model
    neck.out_channels = 32
    for head in (model.get('rpn_head'), None if roi_head else model.bbox_head):
        if head is not None:
            head.update(in_channels=32, feat_channels=32)
    for other in other_necks:
        other.in_channels = 32
    if roi_head:
        roi_head.bbox_roi_extractor.out_channels = 32
        for head in roi_head.bbox_head if isinstance(roi_head.bbox_head, list) else [roi_head.bbox_head]:
            head.update(in_channels=32, fc_out_channels=32)
    return model
