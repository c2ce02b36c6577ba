# Sec. 5: 7 epochs, learning rate x 0.1 after 4 and after 6.
_base_ = ['./sgd.py']

train_cfg = dict(max_epochs=7)
param_scheduler = [{{_base_.warm_up}}, dict(type='MultiStepLR', milestones=[4, 6], gamma=0.1)]
