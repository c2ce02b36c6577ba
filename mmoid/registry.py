"""Registers mmoid's modules with mmdet's registries, and mmoid with mmengine, when imported.

A config finds the modules in one of two ways:

- ``type='ConcurrentSoftmaxLoss'``, if it has ``custom_imports = dict(imports=['mmoid.registry'])``, as
  ``configs/_base_/default_runtime.py`` has;
- ``type='mmoid.ConcurrentSoftmaxLoss'`` in any other config: mmengine imports what it does not find in a registry as
  ``module.attribute``, and ``mmoid/__init__.py`` imports this module.

After the import, ``_base_ = 'mmoid::...'`` and ``mmengine.hub.get_config('mmoid::...')`` find the recipes of the
package. mmengine gives what they build the scope ``mmoid``, which looks everything up in mmdet's registries.
"""

from importlib import import_module

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

import mmoid
from mmoid.engine.resume.checkpoint_hook import allow_checkpoint_globals

for _module in mmoid._MODULE_OF.values():
    import_module(_module)
allow_checkpoint_globals()  # mmdet's own tools load our checkpoints after importing only this module
MODULE2PACKAGE['mmoid'] = 'mmoid'
for _parent in [value for value in vars(mmdet.registry).values() if isinstance(value, Registry)]:
    Registry(_parent.name, parent=_parent, scope='mmoid', locations=['mmoid.registry', *_parent._locations])
