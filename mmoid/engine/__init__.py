"""Hooks, stages and launching, registered with mmdet and mmengine."""

from .checkpoint_globals import allow_checkpoint_globals
from .checkpoint_hook import ResumableCheckpointHook
from .class_order_check import ClassOrderCheckHook
from .hybrid_schedule import HybridSchedule
from .launch import build_runner, load_config, prepare_launch
from .log_history import LogHistoryHook
from .resumable_loop import ResumableEpochTrainLoop
from .stages import StageRestartLR

allow_checkpoint_globals()

__all__ = [
    'ClassOrderCheckHook',
    'HybridSchedule',
    'LogHistoryHook',
    'ResumableCheckpointHook',
    'ResumableEpochTrainLoop',
    'StageRestartLR',
    'build_runner',
    'load_config',
    'prepare_launch',
]
