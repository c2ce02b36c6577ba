"""Predictions of several models -> one PredictionStore, by the algorithms of the package ensemble-boxes.

fusion = Fusion(method='wbf')
sets = match_sets([PredictionStore(path) for path in paths], weights=[2, 1, 1])
run_ensemble(sets, fusion, out)         # in processes; a run that was killed goes on where it was
"""

from mmoid.openimages.predictions.fusion.fusion import CONFIDENCE_TYPES, METHODS, SOFT_NMS_DECAYS, Fusion, fuse
from mmoid.openimages.predictions.fusion.run import EnsembleSummary, run_ensemble
from mmoid.openimages.predictions.fusion.sets import MatchedSets, match_sets, open_sets
from mmoid.openimages.predictions.fusion.shard import fuse_images
from mmoid.openimages.predictions.fusion.weights import read_class_weights

__all__ = [
    'CONFIDENCE_TYPES',
    'METHODS',
    'SOFT_NMS_DECAYS',
    'EnsembleSummary',
    'Fusion',
    'MatchedSets',
    'fuse',
    'fuse_images',
    'match_sets',
    'open_sets',
    'read_class_weights',
    'run_ensemble',
]
