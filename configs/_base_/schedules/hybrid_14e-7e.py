# Hybrid training (Sec. 4.3) from ImageNet weights: stage 1 has 14 epochs.
_base_ = ['./hybrid_20e-7e.py']

train_cfg = dict(max_epochs=21)
custom_hooks = _base_.custom_hooks
custom_hooks[0].stages[0].epochs = 14
custom_hooks[0].stages[0].param_scheduler[1].milestones = [8, 12]
