# What hybrid trainings share (Sec. 4.3): a last stage with the schedule of 1x, from the initial learning rate again. A
# child adds the first stage, of images in sequence.
_base_ = ['./sgd.py']

soft_balance = dict(
    name='soft balance',
    epochs=7,
    sampler=dict(type='SoftBalanceClassAwareSampler', balance=0.7),
    param_scheduler=[dict(type='MultiStepLR', milestones=[4, 6], gamma=0.1)],
)
class_aware = dict(soft_balance, name='class-aware', sampler=dict(soft_balance['sampler'], balance=1.0))

param_scheduler = None  # each stage has its own
