"""Registers everything of mmoid with mmdet's registries, by being imported.

Our modules live in mmdet's own registries, as those of every mmdet plug-in do. Two ways lead to them:

- ``type='ConcurrentSoftmaxLoss'`` where a config has ``custom_imports = dict(imports=['mmoid.registry'])``, as
  ``configs/_base_/default_runtime.py`` has;
- ``type='mmoid.ConcurrentSoftmaxLoss'`` in any other config: mmengine takes what it does not find in a registry for
  ``module.attribute``, and ``mmoid/__init__.py`` answers.
"""

from mmoid.stack import require_stack

require_stack()

from mmoid import datasets, engine, evaluation, models  # noqa: E402

__all__ = ['datasets', 'engine', 'evaluation', 'models']
