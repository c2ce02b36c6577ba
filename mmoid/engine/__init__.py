"""Hooks, stages, exact resume and launching."""

from mmoid.engine.hooks.class_order_check import ClassOrderCheckHook
from mmoid.engine.hooks.invalid_loss import InvalidLossHook
from mmoid.engine.hooks.log_history import LogHistoryHook
from mmoid.engine.launch import build_runner, end_launch, load_config, prepare_launch
from mmoid.engine.resume.checkpoint_hook import ResumableCheckpointHook
from mmoid.engine.resume.checkpoints import allow_checkpoint_globals
from mmoid.engine.resume.train_loop import ResumableEpochTrainLoop
from mmoid.engine.schedule.hybrid_schedule import HybridSchedule
from mmoid.engine.schedule.stages import StageRestartLR

allow_checkpoint_globals()  # mmdet's own tools load our checkpoints after importing only the registry

__all__ = [
    'ClassOrderCheckHook',
    'HybridSchedule',
    'InvalidLossHook',
    'LogHistoryHook',
    'ResumableCheckpointHook',
    'ResumableEpochTrainLoop',
    'StageRestartLR',
    'build_runner',
    'end_launch',
    'load_config',
    'prepare_launch',
]
