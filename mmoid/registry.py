"""Registers mmoid's modules with mmdet's registries when imported.

A config finds them in one of two ways:

- ``type='ConcurrentSoftmaxLoss'``, if it has ``custom_imports = dict(imports=['mmoid.registry'])``, as
  ``configs/_base_/default_runtime.py`` has;
- ``type='mmoid.ConcurrentSoftmaxLoss'`` in any other config: mmengine imports what it does not find in a registry as
  ``module.attribute``, and ``mmoid/__init__.py`` imports this module.
"""

from mmoid import datasets, engine, evaluation, models

__all__ = ['datasets', 'engine', 'evaluation', 'models']
