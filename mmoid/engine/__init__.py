"""Hooks, stages and launching, registered with mmdet and mmengine."""

from .checkpoint_globals import allow_checkpoint_globals
from .checkpoint_hook import ResumableCheckpointHook
from .class_order_check import ClassOrderCheckHook
from .hybrid_schedule import HybridSchedule
from .launch import build_runner, end_launch, load_config, prepare_launch
from .log_history import LogHistoryHook
from .pretrained import PretrainedError, fetch_pretrained, serve_torchvision_names
from .resumable_loop import ResumableEpochTrainLoop
from .stages import StageRestartLR

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
