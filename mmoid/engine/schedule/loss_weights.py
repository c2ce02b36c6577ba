"""Weights of the losses of a model, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mmoid.engine.schedule.stages import Stage


class StageLossWeights:
    """Sets ``loss_weight`` of the modules that some stage names: to the stage's weight, else to the initial one.

    Args:
        model: The detector, not wrapped.
        stages: The stages.

    Raises:
        ValueError: A path at which there is no module, or one without a number ``loss_weight``.
    """

    def __init__(self, model: nn.Module, stages: Sequence[Stage]) -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        weighted = {path: module for path, module in modules.items() if _is_weighted(module)}
        for i, stage in enumerate(stages):
            for path in stage.loss_weights:
                if path not in weighted:
                    raise ValueError(
                        f'HybridSchedule.stages[{i}].loss_weights[{path!r}]: {_lack(modules.get(path))}; those '
                        f'that have one are {", ".join(weighted) or "none in this model"}'
                    )
        self.modules = {path: weighted[path] for stage in stages for path in stage.loss_weights}
        self.initial = {path: module.loss_weight for path, module in self.modules.items()}

    def set(self, stage: Stage) -> None:
        """Gives every module its weight in the stage."""
        for path, weight in (self.initial | dict(stage.loss_weights)).items():
            self.modules[path].loss_weight = weight


def _is_weighted(module: nn.Module) -> bool:
    weight = getattr(module, 'loss_weight', None)
    return isinstance(weight, (int, float)) and not isinstance(weight, bool)


def _lack(module: nn.Module | None) -> str:
    if module is None:
        return 'the model has no such module'
    return f'the {type(module).__name__} there has no loss_weight that is a number'
