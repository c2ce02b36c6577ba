"""Hooks, stages and launching, registered with mmdet and mmengine."""

from mmoid.engine.hooks.class_order_check import ClassOrderCheckHook
from mmoid.engine.hooks.log_history import LogHistoryHook
from mmoid.engine.launch import build_runner, end_launch, load_config, prepare_launch
from mmoid.engine.pretrained import PretrainedError, fetch_pretrained, serve_torchvision_names
from mmoid.engine.resume.checkpoint_globals import allow_checkpoint_globals
from mmoid.engine.resume.checkpoint_hook import ResumableCheckpointHook
from mmoid.engine.resume.train_loop import ResumableEpochTrainLoop
from mmoid.engine.schedule.hybrid_schedule import HybridSchedule
from mmoid.engine.schedule.stages import StageRestartLR

allow_checkpoint_globals()
serve_torchvision_names()

__all__ = [
    'ClassOrderCheckHook',
    'HybridSchedule',
    'LogHistoryHook',
    'PretrainedError',
    'ResumableCheckpointHook',
    'ResumableEpochTrainLoop',
    'StageRestartLR',
    'build_runner',
    'end_launch',
    'fetch_pretrained',
    'load_config',
    'prepare_launch',
]
