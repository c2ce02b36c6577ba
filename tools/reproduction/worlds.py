"""The data sets of tools/reproduce.py, each with a stock detector trained on it, rates, and cached RoIs."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.apis import init_detector
from mmdet.registry import DATASETS
from mmdet.structures.bbox import bbox2roi, bbox_overlaps
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from PIL import Image
from reproduction.methods import STOCK, Method
from torch import Tensor, nn

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.concurrent_rates import count_concurrence, save_rates
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.synthetic.folder import write_dataset
from mmoid.synthetic.world import WorldConfig
from mmoid.utils.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / 'work_dirs/reproduce/worlds'
BASE = ROOT / 'configs/synthetic/faster-rcnn_r18-small_fpn_2xb4-cas-5e_synthetic.py'
DIMENSIONS = 512  # principal components of a RoI's features
POSITIVES, NEGATIVES = 40, 72  # RoIs kept per training image

# Knobs of the generated worlds. docs/reproduction.md says where those of "generated" come from.
QUICKSTART = dict(num_train=1200, num_classes=24, imbalance=100.0, confusable_pairs=2)
KNOBS: dict[str, dict] = {
    'quickstart': QUICKSTART,
    'generated': dict(
        num_train=2400,
        num_classes=64,
        imbalance=1000.0,
        multi_label_rate=0.2,
        confusable_pairs=16,
        parent_only_rate=0.3,
        objects_per_image=7.0,
        image_size=96,
    ),
    # For training on verified classes: nobody verified half of the classes that are in a training image.
    'partial': dict(QUICKSTART, image_size=96),
}
TRAIN_KNOBS = {'partial': dict(unverified_rate=0.5)}
NUM_VALIDATION = 1500
VALIDATION_SEED = 2000  # other images of the same classes; the quickstart's own 300 are too few
REAL_SIZE = (192, 144)  # pixels of a painted image; the sample does not give sizes
PHOTOGRAPHS = {'train': 'train', 'validation': 'test'}  # folders of photographs with boxes of apples and oranges
EPOCHS = {'photographs': 60}  # 196 images are few; 5 elsewhere
GRATINGS = 12


def run(*command: object) -> None:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True)
    if done.returncode:
        output = done.stdout.decode()[-2000:] + done.stderr.decode()[-4000:]
        raise RuntimeError(f'{" ".join(map(str, command))}\n{output}')


def run_training(cfg: Config, work: Path) -> None:
    """Trains in a process of its own; a killed training resumes."""
    work.mkdir(parents=True, exist_ok=True)
    cfg.dump(work / 'config.py')
    resume = ['--resume'] if (work / 'last_checkpoint').exists() else []
    run('tools/train.py', work / 'config.py', '--work-dir', work, *resume)


@dataclass(frozen=True)
class World:
    """A prepared data set; every file is made when it is first needed."""

    name: str  # of ``KNOBS``; ``real``: real annotations, painted; ``photographs``: real ones of apples and oranges
    source: Path | None = None  # folder with the real files, for ``real`` and ``photographs``

    @property
    def folder(self) -> Path:
        return WORK / self.name

    @property
    def epochs(self) -> int:
        return EPOCHS.get(self.name, 5)

    def store(self, split: str) -> Path:
        if not (self.folder / split).exists():
            if self.name == 'real':
                paint(self.source, self.folder, split)
            elif self.source:
                prepare_photographs(self.source, self.folder, split)
            else:
                self._generate(split)
        return self.folder / split

    def _generate(self, split: str) -> None:
        if split == 'train':
            own = dict(TRAIN_KNOBS.get(self.name, {}), num_validation=0)
        else:
            own = dict(num_train=1, num_validation=NUM_VALIDATION, seed=VALIDATION_SEED)
        data = self.folder / f'{split}-files'
        write_dataset(data, WorldConfig(**{**KNOBS[self.name], **own}), os.cpu_count())
        files = data / 'annotations'
        convert(
            self.folder / split,
            boxes=files / f'{split}-detection-bbox.csv',
            image_labels=files / f'{split}-detection-human-imagelabels.csv',
            classes=files / 'classes-description.csv',
            hierarchy=files / 'label-hierarchy.json',
            images=data / 'images' / split,
        )

    def annotated_rates(self) -> Path:
        out = self.folder / 'annotated.npz'
        if not out.exists():
            store = AnnotationStore(self.store('train'))
            save_rates(out, count_concurrence(store).rates, store.label_names)
        return out

    def pair_rates(self, method: Method = STOCK, seed: int = 0) -> Path:
        """Rates of pairs, from the detections of a detector on the training images."""
        work = self.detector_folder(method, seed)
        out, predictions = work / 'pairs.npz', work / 'train-predictions'
        if not out.exists():
            store = self.store('train')
            if not predictions.exists():
                options = [f'{loader}.ann_file={store}' for loader in ('test_dataloader.dataset', 'test_evaluator')]
                checkpoint = self.detector(method, seed)
                test = ('--out', predictions, '--work-dir', work / 'test', '--cfg-options', *options)
                run('tools/test.py', work / 'config.py', checkpoint, *test)
            run('tools/analysis_tools/concurrent_rates.py', store, '--predictions', predictions, '--out', out)
        return out

    def load_config(self, recipe: Path, seed: int) -> Config:
        """A recipe for the quickstart's data, with this data."""
        cfg = Config.fromfile(recipe)
        train, validation = str(self.store('train')), str(self.store('validation'))
        cfg.randomness = dict(seed=seed)
        cfg.train_dataloader.batch_size = 8
        cfg.train_dataloader.dataset.ann_file = train
        cfg.test_dataloader.dataset.ann_file = validation
        cfg.test_evaluator.update(ann_file=validation, train_ann_file=train)
        cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
        cfg.train_cfg.val_interval = 100  # and after the last epoch
        return cfg

    def config(self, method: Method = STOCK, seed: int = 0) -> Config:
        """The quickstart's model and schedule on this data: class-aware sampling, with the loss of a method."""
        cfg, store = self.load_config(BASE, seed), AnnotationStore(self.store('train'))
        size = max(REAL_SIZE) if self.source else KNOBS[self.name].get('image_size', 160)
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            next(step for step in loader.dataset.pipeline if step.type == 'Resize').scale = (size, size)
        head = cfg.model.roi_head.bbox_head
        head.num_classes = store.num_classes
        head.loss_cls.update(method.loss, concurrent_rates=str(self.annotated_rates()), hierarchy=str(store.path))
        cfg.train_cfg.max_epochs = self.epochs
        cfg.param_scheduler[1].milestones = [self.epochs * 3 // 5, self.epochs * 4 // 5]
        return cfg

    def detector_folder(self, method: Method, seed: int) -> Path:
        return self.folder / f'detector-{method.loss["type"]}-{seed}'

    def detector(self, method: Method = STOCK, seed: int = 0) -> Path:
        """Checkpoint of a detector."""
        work = self.detector_folder(method, seed)
        checkpoint = work / f'epoch_{self.epochs}.pth'
        if not checkpoint.exists():
            run_training(self.config(method, seed), work)
        return checkpoint

    def rois(self) -> Path:
        """Cached RoIs of the stock detector: of all training images, as they are and flipped, and of validation."""
        file = self.folder / 'stock.rois'
        if not file.exists():
            cache_rois(self.config(), self.detector(), file)
        return file


def paint(source: Path, folder: Path, split: str) -> None:
    """Images for real annotations: every box shows the look of its classes.

    A look is the amplitudes of a few colour gratings. Siblings are close. Boxes of two classes on one object have the
    mean of their looks. ``source`` has the folders ``annotations``, ``hierarchy`` and ``classes`` of official files.
    """
    boxes = source / f'annotations/{split}-sample-challenge-bbox.csv'
    classes = source / 'classes/challenge-class-descriptions-500.csv'
    tree = source / 'hierarchy/bbox_labels_500_hierarchy.json'
    bare = folder / f'{split}-bare'
    sizes = folder / f'{split}-sizes.csv'
    ids = sorted({line.split(',')[0] for line in boxes.read_text().splitlines()[1:]})
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f'{image_id},{REAL_SIZE[0]},{REAL_SIZE[1]}' for image_id in ids]
    sizes.write_text('ImageID,Width,Height\n' + '\n'.join(rows) + '\n')
    files = dict(boxes=boxes, classes=classes, hierarchy=tree)
    convert(bare, **files, image_sizes=sizes, overwrite=True)
    store = AnnotationStore(bare)
    looks = class_looks(store)
    images = folder / f'{split}-images'
    images.mkdir(exist_ok=True)
    for index, image_id in enumerate(store.image_ids()):
        rng = np.random.default_rng([split == 'train', index])
        part = store.boxes_of_image(index)
        image = paint_image(rng, np.asarray(store.box[part]), looks[store.box_label[part]])
        image.save(images / f'{Path(image_id).stem}.jpg', quality=92)
    convert(folder / split, **files, images=images)


def prepare_photographs(source: Path, folder: Path, split: str) -> None:
    """A store of the classes apple, orange, fruit and food."""
    names = (source / 'classes/class-descriptions-boxable.csv').read_text().splitlines()
    classes = folder / 'classes.csv'
    folder.mkdir(parents=True, exist_ok=True)
    classes.write_text('\n'.join(line for line in names if line.split(',')[1] in ('Apple', 'Orange', 'Fruit', 'Food')))
    images, tree = source / 'fruit' / PHOTOGRAPHS[split], source / 'hierarchy/bbox_labels_600_hierarchy.json'
    boxes = images.with_name(f'{images.name}-annotations-bbox.csv')
    convert(folder / split, boxes=boxes, classes=classes, hierarchy=tree, images=images)


def class_looks(store: AnnotationStore) -> np.ndarray:
    """(C, GRATINGS, 3) amplitudes: a class adds a small difference of its own to those of its ancestors."""
    ancestors = store.hierarchy.ancestor_matrix
    own = np.random.default_rng(0).normal(size=(store.num_classes, GRATINGS, 3))
    own[ancestors.any(axis=1)] *= 0.5
    return own + np.einsum('ij,jgc->igc', ancestors, own)


def paint_image(rng: np.random.Generator, box: np.ndarray, looks: np.ndarray) -> Image.Image:
    """Args: (B, 4) boxes as fractions, (B, GRATINGS, 3) looks. Large boxes are painted first."""
    width, height = REAL_SIZE
    coarse = rng.normal(128, 25, (6, 8, 3)).clip(0, 255).astype(np.uint8)
    canvas = np.asarray(Image.fromarray(coarse).resize(REAL_SIZE, Image.Resampling.BICUBIC)).astype(np.float32)
    overlap = bbox_overlaps(torch.from_numpy(box + 0.0), torch.from_numpy(box + 0.0)).numpy() >= 0.9
    np.fill_diagonal(overlap, True)
    mean = np.einsum('ij,jgc->igc', overlap / overlap.sum(axis=1, keepdims=True), looks)
    waves = [(u, v) for u in range(5) for v in range(5) if u or v][:GRATINGS]
    pixels = np.stack([box[:, 0] * width, box[:, 1] * height, box[:, 2] * width, box[:, 3] * height], axis=1)
    for i in np.argsort(-(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])):
        left, top, right, bottom = pixels[i]
        columns = np.arange(math.floor(left), math.ceil(right))
        rows = np.arange(math.floor(top), math.ceil(bottom))
        u = (2 * (columns + 0.5 - left) / max(right - left, 1e-6) - 1)[None, :]
        v = (2 * (rows + 0.5 - top) / max(bottom - top, 1e-6) - 1)[:, None]
        phases = np.stack([np.cos(np.pi * (a * u + b * v)) for a, b in waves])
        colour = 128 + 22 * rng.uniform(0.8, 1.2) * np.einsum('ghw,gc->hwc', phases, mean[i])
        inside = np.abs(u) ** 4 + np.abs(v) ** 4 <= 1
        window = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        window[inside] = colour[inside]
    canvas += rng.normal(0, 8, canvas.shape)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


@torch.no_grad()
def validation_logits(cfg: Config, checkpoint: Path) -> tuple[list[str], list[Tensor], list[Tensor]]:
    """Ids of the validation images; (R, C+1) logits and (R, 4) boxes, as fractions, of each."""
    model = init_detector(cfg, str(checkpoint), device='cpu')
    validation = DATASETS.build(cfg.test_dataloader.dataset)
    images = [regions(model, validation[i], False, None) for i in range(len(validation))]
    return tuple([image[key] for image in images] for key in ('image_id', 'logits', 'boxes'))


@torch.no_grad()
def cache_rois(cfg: Config, checkpoint: Path, file: Path) -> None:
    model = init_detector(cfg, str(checkpoint), device='cpu')
    dataset = cfg.train_dataloader.dataset
    steps = [step for step in dataset.pipeline if step['type'] not in ('RandomFlip', 'PackDetInputs')]
    pack = dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))
    flips = [[*steps, dict(type='RandomFlip', prob=float(flip)), pack] for flip in (0, 1)]
    views = [DATASETS.build({**dataset, 'pipeline': pipeline}) for pipeline in flips]
    some = torch.cat([regions(model, views[0][i], True, None)['features'][:30] for i in range(0, len(views[0]), 6)])
    components = torch.linalg.eigh(some.T @ some)[1][:, -DIMENSIONS:]
    classes = range(len(views[0].metainfo['classes']))
    validation = DATASETS.build(cfg.test_dataloader.dataset)
    arrays = dict(
        components=components,
        train=[[regions(model, view[i], True, components) for i in range(len(view))] for view in views],
        validation=[regions(model, validation[i], False, components) for i in range(len(validation))],
        class_images=[torch.as_tensor(views[0].image_indices_of_class(label)) for label in classes],
    )
    with atomic_write(file) as temporary:
        torch.save(arrays, temporary)


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
        boxes = boxes[torch.cat([positive, negative[torch.randperm(len(negative))[:NEGATIVES]]])]
        same = bbox_overlaps(truth, truth) >= 0.9
        same.fill_diagonal_(True)
        sets = same.float() @ F.one_hot(labels, model.roi_head.bbox_head.num_classes).float() > 0
        verified = torch.as_tensor(sample.gt_instances.verified_classes)
        found |= dict(label=labels[truth_of[positive]], sets=sets[truth_of[positive]], verified=verified)
    rois = bbox2roi([boxes])
    features = model.roi_head.bbox_roi_extractor(maps[: model.roi_head.bbox_roi_extractor.num_inputs], rois)
    logits, deltas = model.roi_head.bbox_head(features)
    height, width = sample.img_shape[:2]
    decoded = model.roi_head.bbox_head.bbox_coder.decode(boxes, deltas, max_shape=sample.img_shape)
    features = features.flatten(1)
    return found | dict(
        logits=logits,
        features=features if components is None else (features @ components).half(),
        boxes=decoded / decoded.new_tensor([width, height, width, height]),
    )


def write_json(file: Path, cells: dict[str, dict]) -> None:
    """A line for each cell."""
    lines = (f'{json.dumps(key)}: {json.dumps(cell)}' for key, cell in cells.items())
    with atomic_write(file) as temporary:
        temporary.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


def read_json(file: Path) -> dict[str, dict]:
    return json.loads(file.read_text()) if file.exists() else {}
