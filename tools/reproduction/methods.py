"""The rows of the paper's Tables 1, 3 and 4 (Table 2 tests two rows of Table 1 in two ways), and rows of our own."""

from dataclasses import dataclass, field, replace

from mmoid.models.label_sets import Unverified

SOFTMAX = {'type': 'SoftmaxLoss'}
CONCURRENT = {'type': 'ConcurrentSoftmaxLoss'}


@dataclass(frozen=True)
class Method:
    """What a head or a detector is trained with."""

    name: str  # as in the table
    paper: float | None  # the paper's mAP in percent, or None
    loss: dict = field(default_factory=lambda: dict(SOFTMAX))  # config of ``loss_cls``
    ancestors: bool = False  # whether label sets hold the ancestors of the annotated labels
    rates: str = 'annotated'  # ``annotated``, or ``pairs``
    hierarchy_rate: float = 1.0  # r_ij of a class and its ancestor
    stages: tuple[tuple[int, float | None], ...] = ((7, 1.0),)  # (epochs, λ) each; None for the images as they are
    unverified: Unverified = 'negative'  # see :class:`mmoid.models.label_sets.VerifiedClasses`
    beta: float | None = None  # of class weights by the effective number of samples, or None
    lr: float = 0.02


STOCK = Method('softmax', None)
DETECTORS = (STOCK, Method('concurrent softmax', None, CONCURRENT))  # whole detectors, always class-aware for 5 epochs
ONLY_NATURAL = ((7, None),)
TABLES: dict[int, tuple[Method, ...]] = {
    1: (
        Method('focal, class-aware', 50.18, {'type': 'LabelSetFocalLoss'}, ancestors=True),
        Method('BCE, class-aware', 54.29, {'type': 'LabelSetBCELoss'}, ancestors=True),
        Method('Co-BCE, class-aware', 55.74, {'type': 'CoBCELoss'}),
        Method('dist-CE, class-aware', 55.90, {'type': 'DistCELoss'}),
        Method('softmax', 38.16, stages=ONLY_NATURAL),
        Method('concurrent softmax', 39.14, CONCURRENT, stages=ONLY_NATURAL),
        Method('softmax, class-aware', 55.45),
        Method('concurrent softmax, class-aware', 56.58, CONCURRENT),
        Method('concurrent softmax, class-aware, rates of pairs', None, CONCURRENT, rates='pairs'),
        Method('concurrent softmax, class-aware, sets with ancestors', None, CONCURRENT, ancestors=True),
        Method('concurrent softmax, class-aware, hierarchy_rate 0', None, CONCURRENT, hierarchy_rate=0.0),
        Method('dist-CE, class-aware, sets with ancestors', None, {'type': 'DistCELoss'}, ancestors=True),
    ),
    3: (
        Method('non-balance', 38.16, stages=ONLY_NATURAL),
        Method('effective number', 45.72, stages=ONLY_NATURAL, beta=0.999),
        Method('effective number, β = 0.99', None, stages=ONLY_NATURAL, beta=0.99),
        *(
            Method(f'soft balance {balance}', paper, stages=((7, balance),))
            for balance, paper in ((0.3, 50.69), (0.5, 56.19), (0.7, 57.04), (1.0, 55.45), (1.5, 52.41))
        ),
    ),
    4: (
        Method('non-balance, 7', 56.06, stages=ONLY_NATURAL),
        Method('non-balance, 14', 59.85, stages=((14, None),)),
        Method('non-balance, 20', 60.70, stages=((20, None),)),
        Method('class-aware, 7', 64.68),
        Method('class-aware, 14', 62.85, stages=((14, 1.0),)),
        Method('class-aware, 14+7', 65.60, stages=((14, None), (7, 1.0))),
        Method('class-aware, 20+7', 65.92, stages=((20, None), (7, 1.0))),
        Method('soft balance, 20+7', 67.09, stages=((20, None), (7, 0.7))),
        Method('concurrent softmax, soft balance, 20+7', 68.23, CONCURRENT, stages=((20, None), (7, 0.7))),
        Method('the same, rates of pairs', None, CONCURRENT, rates='pairs', stages=((20, None), (7, 0.7))),
    ),
}
# Of the real photographs.
TABLES[5] = tuple(
    Method(f'{name}, {sampling}', None, loss, ancestors, stages=((7, balance),))
    for name, loss, ancestors in (
        ('softmax', SOFTMAX, False),
        ('concurrent softmax', CONCURRENT, False),
        ('concurrent softmax, sets with ancestors', CONCURRENT, True),
    )
    for sampling, balance in (('images as they are', None), ('soft balance 0.7', 0.7))
)
TABLES[2] = tuple(replace(method, paper=None) for method in TABLES[1] if method.name.endswith('softmax, class-aware'))
# Not of the paper: what the classes are that nobody verified.
TABLES[0] = tuple(
    Method(f'{name}, {sampling}, {unverified}', None, loss, stages=((7, balance),), unverified=unverified)
    for name, loss in (('softmax', SOFTMAX), ('concurrent softmax', CONCURRENT))
    for sampling, balance in (('images as they are', None), ('soft balance 0.7', 0.7))
    for unverified in ('negative', 'ignore', 'sample')
)
