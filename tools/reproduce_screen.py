"""Screen losses, label sets and rates: train only the box head, on cached RoI features of a trained detector.

    python tools/reproduce_screen.py CONFIG CHECKPOINT --seeds 5 --out docs/reproduction/screen.json

A cell takes 15 seconds on one core (1,200 training and 1,500 validation images). It resumes after a kill. The RoIs,
their regressed boxes and their features are those of the detector, the same for all cells; the classification head
(two fully connected layers and the classifier) is trained from scratch. Cells differ only in the method.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import nms
from mmdet.registry import DATASETS, MODELS
from mmdet.structures.bbox import bbox2roi, bbox_overlaps
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from reproduce import average_precision
from torch import Tensor, nn

from mmoid.models.losses import concurrent_softmax
from mmoid.openimages.sampling.soft_balance import class_probabilities
from mmoid.openimages.statistics.concurrent_rates import load_rates
from mmoid.openimages.store.annotation_store import AnnotationStore

DIMENSIONS = 512  # principal components of a RoI's features
POSITIVES, NEGATIVES = 40, 72  # RoIs kept per training image
BATCH, SAMPLED, SAMPLED_POSITIVES = 8, 64, 16  # images per step, RoIs per image, as in the quickstart
EPOCHS = 5
SURE = 0.15  # a rate above it, annotated or of confusions, becomes 1 in 'pairs'


@dataclass(frozen=True)
class Method:
    """What a head is trained and tested with.

    Attributes:
        loss: ``softmax`` (one label), ``concurrent`` (Eq. 3), ``marginal`` (Eq. 3, but a class has the mass of itself
            and its descendants), ``dist-CE`` or ``BCE``.
        ancestors: Whether label sets hold the ancestors of the annotated labels.
        by_labels: Divide the loss of a row by its number of labels.
        ancestor_weight: Of the terms of ancestors.
        rates: ``annotations``, ``none``, ``pairs`` (1 where ``max(r_ij, min(c_ij, c_ji)) > 0.15``).
        hierarchy_rate: r_ij of a class and its ancestor.
        balance: λ of the draws, or None for all images alike.
        lr: Learning rate.
        loss_weight: Factor of the loss.
        clip: Largest norm of the gradients, or None.
        foreground: Factor of the losses of rows that are not background.
    """

    loss: str = 'softmax'
    ancestors: bool = False
    by_labels: bool = False
    ancestor_weight: float = 1.0
    rates: str = 'annotations'
    hierarchy_rate: float = 1.0
    balance: float | None = 1.0
    lr: float = 0.02
    loss_weight: float = 1.0
    clip: float | None = 10.0
    foreground: float = 1.0


METHODS = (
    Method(),
    Method(foreground=4.0),
    Method('concurrent', ancestors=True, foreground=0.25),
    Method('concurrent'),
    Method('concurrent', rates='pairs'),
    Method('concurrent', rates='none'),
    Method('concurrent', hierarchy_rate=0.0),
    Method('concurrent', ancestors=True),
    Method('concurrent', ancestors=True, lr=0.01),
    Method('concurrent', ancestors=True, clip=None),
    Method('concurrent', ancestors=True, loss_weight=0.33),
    Method('concurrent', ancestors=True, ancestor_weight=0.25),
    Method('concurrent', ancestors=True, by_labels=True),
    Method('concurrent', ancestors=True, by_labels=True, rates='pairs'),
    Method('concurrent', ancestors=True, hierarchy_rate=0.0),
    Method('marginal', hierarchy_rate=0.0, rates='pairs'),
    Method('dist-CE'),
    Method('dist-CE', ancestors=True),
    Method('dist-CE', ancestors=True, rates='pairs'),
    Method('BCE', ancestors=True),
)


@torch.no_grad()
def cache(config: Path, checkpoint: Path, file: Path) -> None:
    """Store the RoIs of all training images, as they are and flipped, and of all validation images."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(config)
    model = MODELS.build(cfg.model).eval()
    load_checkpoint(model, str(checkpoint), map_location='cpu')
    train_cfg = cfg.train_dataloader.dataset
    steps = [step for step in train_cfg.pipeline if step['type'] not in ('RandomFlip', 'PackDetInputs')]
    pack = dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))
    flips = [[*steps, dict(type='RandomFlip', prob=float(flip)), pack] for flip in (0, 1)]
    views = [DATASETS.build({**train_cfg, 'pipeline': pipeline}) for pipeline in flips]
    some = torch.cat([regions(model, views[0][i], True, None)['features'][:30] for i in range(0, len(views[0]), 6)])
    components = torch.linalg.eigh(some.T @ some)[1][:, -DIMENSIONS:]
    validation = DATASETS.build(cfg.val_dataloader.dataset)
    torch.save(
        dict(
            components=components,
            train=[[regions(model, view[i], True, components) for i in range(len(view))] for view in views],
            validation=[regions(model, validation[i], False, components) for i in range(len(validation))],
            class_images=[
                torch.tensor(views[0].image_indices_of_class(label))
                for label in range(len(views[0].metainfo['classes']))
            ],
        ),
        file,
    )


def regions(model: nn.Module, item: dict, train: bool, components: Tensor | None) -> dict:
    """RoIs of one image: for training the ground truths too, positives first, assigned as in Faster R-CNN."""
    data = model.data_preprocessor(pseudo_collate([item]), False)
    sample = data['data_samples'][0]
    maps = model.extract_feat(data['inputs'])
    boxes = model.rpn_head.predict(maps, data['data_samples'], rescale=False)[0].bboxes
    found = dict(image_id=sample.img_id)
    if train:
        truth, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
        boxes = torch.cat([truth, boxes])
        overlap, truth_of = bbox_overlaps(boxes, truth).max(dim=1)
        positive, negative = ((overlap >= 0.5).nonzero()[:, 0], (overlap < 0.5).nonzero()[:, 0])
        positive = positive[torch.randperm(len(positive))[:POSITIVES]]
        kept = torch.cat([positive, negative[torch.randperm(len(negative))[:NEGATIVES]]])
        boxes = boxes[kept]
        same = bbox_overlaps(truth, truth) >= 0.9
        same.fill_diagonal_(True)
        sets = same.float() @ F.one_hot(labels, model.roi_head.bbox_head.num_classes).float() > 0
        found |= dict(label=labels[truth_of[positive]], labels=sets[truth_of[positive]])
    rois = bbox2roi([boxes])
    features = model.roi_head.bbox_roi_extractor(maps[: model.roi_head.bbox_roi_extractor.num_inputs], rois)
    scores, deltas = model.roi_head.bbox_head(features)
    height, width = sample.img_shape[:2]
    decoded = model.roi_head.bbox_head.bbox_coder.decode(boxes, deltas, max_shape=sample.img_shape)
    features = features.flatten(1)
    return found | dict(
        features=features if components is None else (features @ components).half(),
        scores=scores.softmax(dim=1),
        boxes=decoded / decoded.new_tensor([width, height, width, height]),
    )


class Data:
    """Cached RoIs with their targets, and the rates."""

    def __init__(self, file: Path, config: Config) -> None:
        self.__dict__ |= torch.load(file, weights_only=True)
        self.stores = config.train_dataloader.dataset.ann_file, config.val_dataloader.dataset.ann_file
        self.store = AnnotationStore(self.stores[0])
        self.ancestor = torch.from_numpy(self.store.hierarchy.ancestor_matrix)
        self.num_classes = len(self.ancestor)
        self.rates_file = config.model.roi_head.bbox_head.loss_cls.concurrent_rates
        below = (self.ancestor | torch.eye(self.num_classes, dtype=torch.bool)).T
        self.below = F.pad(below, (0, 1, 0, 1))  # [i, j]: j is i or a descendant of it; background is itself only
        self.below[-1, -1] = True

    def rates(self, method: Method) -> Tensor:
        """(C+1, C+1) r_ij."""
        rates = torch.from_numpy(load_rates(self.rates_file)[0].astype(np.float32))
        if method.rates == 'pairs':
            rates = (torch.maximum(rates, self.mutual_confusions()) > SURE).float()
        rates = torch.zeros_like(rates) if method.rates == 'none' else rates
        rates[self.ancestor | self.ancestor.T] = method.hierarchy_rate
        return F.pad(rates.fill_diagonal_(0), (0, 1, 0, 1))

    def mutual_confusions(self) -> Tensor:
        """min(c_ij, c_ji): c_ij is the detector's mean score of j on RoIs labelled i but neither j nor below it."""
        labels = torch.cat([image['labels'] for image in self.train[0]])
        scores = torch.cat([image['scores'][: len(image['labels']), :-1] for image in self.train[0]])
        known = labels | (labels.float() @ self.ancestor.float() > 0)
        confusions = labels.float().T @ scores.masked_fill(known, 0) / labels.sum(0).clamp(min=1)[:, None]
        return torch.minimum(confusions, confusions.T)

    def targets(self, image: dict, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(R,) label and (R, C+1) annotated label set of some RoIs of an image; background last."""
        num_positive, positive = len(image['label']), rows < len(image['label'])
        label = torch.full((len(rows),), self.num_classes)
        sets = torch.zeros(len(rows), self.num_classes + 1, dtype=torch.bool)
        if num_positive:
            label[positive] = image['label'][rows[positive]]
            sets[torch.from_numpy(positive), :-1] = image['labels'][rows[positive]]
        sets[~positive, -1] = True
        return label, sets


def row_losses(data: Data, method: Method, rates: Tensor, logits: Tensor, label: Tensor, sets: Tensor) -> Tensor:
    """(N,) losses of (N, C+1) logits."""
    if method.loss == 'softmax':
        return F.cross_entropy(logits, label, reduction='none')
    above = F.pad(sets[:, :-1].float() @ data.ancestor.float() > 0, (0, 1)) & ~sets
    weights = sets.float() + method.ancestor_weight * above * method.ancestors
    known = weights > 0
    if method.loss == 'BCE':
        losses = F.binary_cross_entropy_with_logits(logits, known.float(), reduction='none')
        return losses.masked_fill(above & ~known, 0)[:, :-1].sum(dim=1)
    if method.by_labels or method.loss == 'dist-CE':
        weights = weights / weights.sum(dim=1, keepdim=True)
    if method.loss == 'dist-CE':
        return -(weights * logits.log_softmax(dim=1)).sum(dim=1)
    rows, labels = known.nonzero(as_tuple=True)
    own, others = logits[rows, labels], known[rows]
    if method.loss == 'marginal':
        others = others | data.below[labels]
        own = logits[rows].masked_fill(~data.below[labels], -torch.inf).logsumexp(dim=1)
    rivals = (logits[rows] + (1 - rates).log()[labels]).masked_fill(others, -torch.inf).logsumexp(dim=1)
    return torch.zeros(len(logits)).index_add(0, rows, F.softplus(rivals - own) * weights[rows, labels])


def activations(data: Data, method: Method, logits: Tensor) -> dict[str, Tensor]:
    """(N, C) scores of (N, C+1) logits, by what they are tested with."""
    if method.loss == 'BCE':
        return {'sigmoid': logits.sigmoid()[:, :-1]}
    if method.loss == 'marginal':
        exponentials = (logits - logits.amax(dim=1, keepdim=True)).exp()
        below = data.below.float()
        own = exponentials @ below.T
        return {'marginal': (own / (own + exponentials @ ((1 - data.rates(method)) * (1 - below)).T))[:, :-1]}
    scores = {f'Eq. 5, {method.rates}': concurrent_softmax(logits, data.rates(method))[:, :-1]}
    if method.loss == 'softmax':
        pairs = data.rates(Method(rates='pairs'))
        scores |= {'softmax': logits.softmax(dim=1)[:, :-1], 'Eq. 5, pairs': concurrent_softmax(logits, pairs)[:, :-1]}
    return scores


def train(data: Data, method: Method, seed: int) -> nn.Module | None:
    """Train a head; None where the loss is not finite."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    first = torch.empty(256, len(data.components))
    layers = [nn.Linear(DIMENSIONS, 256), nn.Linear(256, 256), nn.Linear(256, data.num_classes + 1)]
    nn.init.xavier_uniform_(first)
    nn.init.xavier_uniform_(layers[1].weight)
    nn.init.normal_(layers[2].weight, 0, 0.01)
    for layer in layers:
        nn.init.zeros_(layer.bias)
    layers[0].weight.data = first @ data.components  # what the full features would get
    if method.loss == 'BCE':
        nn.init.constant_(layers[2].bias, -4.6)
    head = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimizer = torch.optim.SGD(head.parameters(), method.lr, momentum=0.9, weight_decay=1e-4)
    rates, order = data.rates(method), draws(data, method, rng)
    for step, images in enumerate(order):
        done = step / len(order)
        factor = min(1.0, 0.01 + step / 100) * (0.1 if done >= 0.6 else 1) * (0.1 if done >= 0.8 else 1)
        optimizer.param_groups[0]['lr'] = method.lr * factor
        batch = []
        for i in images:
            image = data.train[rng.integers(2)][i]
            count = len(image['label'])
            positive = rng.permutation(count)[:SAMPLED_POSITIVES]
            negative = count + rng.permutation(len(image['features']) - count)[: SAMPLED - len(positive)]
            rows = np.concatenate([positive, negative])
            batch.append((image['features'][rows], *data.targets(image, rows)))
        features, label, sets = (torch.cat(part) for part in zip(*batch))
        losses = row_losses(data, method, rates, head(features.float()), label, sets)
        losses = torch.where(sets[:, -1], losses, losses * method.foreground)
        loss = losses.mean() * method.loss_weight
        if not loss.isfinite():
            return None
        optimizer.zero_grad()
        loss.backward()
        if method.clip:
            nn.utils.clip_grad_norm_(head.parameters(), method.clip)
        optimizer.step()
    return head.eval()


def draws(data: Data, method: Method, rng: np.random.Generator) -> np.ndarray:
    """(steps, BATCH) image indices."""
    count = len(data.train[0])
    if method.balance is None:
        images = np.concatenate([rng.permutation(count) for _ in range(EPOCHS)])
    else:
        sizes = np.array([len(images) for images in data.class_images])
        labels = rng.choice(len(sizes), count * EPOCHS, p=class_probabilities(sizes, method.balance))
        images = np.array([rng.choice(data.class_images[label].numpy()) for label in labels])
    return images[: len(images) // BATCH * BATCH].reshape(-1, BATCH)


@torch.no_grad()
def test(data: Data, method: Method, head: nn.Module) -> dict[str, dict]:
    """Figures by activation; ancestors added and NMS per class over own and added boxes."""
    found: dict[str, list] = {}
    for number, image in enumerate(data.validation):
        for name, scores in activations(data, method, head(image['features'].float())).items():
            rows, label = (scores > 0.01).nonzero(as_tuple=True)
            boxes, scores = image['boxes'][rows], scores[rows, label]
            kept = nms(boxes + 2.0 * label[:, None], scores, 0.5)[1][:300]  # boxes of different classes do not touch
            source, label = data.store.hierarchy.expand_up(label[kept].numpy())
            kept, label = kept[source], torch.from_numpy(label)
            last = nms(boxes[kept] + 2.0 * label[:, None], scores[kept], 0.5)[1]
            image_of = np.full(len(last), number)
            chosen = kept[last]
            found.setdefault(name, []).append(
                (image_of, label[last].numpy(), scores[chosen].numpy(), boxes[chosen].numpy())
            )
    image_ids = [image['image_id'] for image in data.validation]
    results = {}
    for name, parts in found.items():
        figures = average_precision(*data.stores, image_ids, *(np.concatenate(part) for part in zip(*parts)))
        results[name] = {key: value for key, value in figures.items() if key != 'AP'}
    return results


def summary(results: list[dict]) -> str:
    """Mean mAP and standard error, and the same of the difference to softmax of the same seed."""
    stock = {cell['seed']: cell['results']['softmax']['mAP'] for cell in results if cell['method'] == asdict(Method())}
    groups: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for cell in results:
        changed = ', '.join(f'{key}={value}' for key, value in cell['method'].items() if value != asdict(Method())[key])
        for test_name, figures in cell['results'].items():
            groups.setdefault((changed or 'softmax', test_name), []).append((cell['seed'], figures['mAP']))
    lines = ['| method | tested with | mAP | difference to softmax | seeds |', '| --- | --- | ---: | ---: | ---: |']
    for (method, test_name), cells in sorted(groups.items(), key=lambda group: -np.mean([ap for _, ap in group[1]])):
        difference = 100 * np.array([ap - stock[seed] for seed, ap in cells if seed in stock])
        error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else np.nan
        mean = 100 * np.mean([ap for _, ap in cells])
        lines.append(f'| {method} | {test_name} | {mean:.2f} | {difference.mean():+.2f} ± {error:.2f} | {len(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='config of a trained detector')
    parser.add_argument('checkpoint', type=Path, help='its checkpoint')
    parser.add_argument('--seeds', type=int, default=5, help='heads of each method (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/reproduce/screen.json'), help='results (JSON)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    MMLogger.get_instance('screen', log_level='WARNING')
    file = args.checkpoint.with_suffix('.rois')
    if not file.exists():
        cache(args.config, args.checkpoint, file)
    data = Data(file, Config.fromfile(args.config))
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    done = [(cell['method'], cell['seed']) for cell in results]
    for seed in range(args.seeds):
        for method in METHODS:
            if (asdict(method), seed) in done:
                continue
            began = time.monotonic()
            head = train(data, method, seed)
            tested = test(data, method, head) if head is not None else {}
            results.append(
                dict(method=asdict(method), seed=seed, results=tested, seconds=round(time.monotonic() - began, 1))
            )
            args.out.write_text(json.dumps(results, indent=1) + '\n')
            print(seed, method, {name: round(figures['mAP'], 4) for name, figures in tested.items()}, flush=True)
    print(summary(results))


if __name__ == '__main__':
    main()
