r"""Gives a trained detector the classes of a store, to fine-tune it on that store.

    python tools/misc/convert_checkpoint.py faster_rcnn_r50_fpn_32x2_1x_openimages.pth pretrained.pth \
        --store data/openimages/train --classes class-descriptions-boxable.csv --fill-ancestors

It works for most detectors of mmdet, if you know their classes and their order. Then train with
--cfg-options load_from=pretrained.pth.
"""

from pathlib import Path

import torch

from mmoid.engine.resume.checkpoint_hook import try_load
from mmoid.models.checkpoint_classes import classes_of_checkpoint, convert_classes
from mmoid.openimages.readers.csv_files import read_classes
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.utils.command_line import exit_on_error, tool_parser


def first(names: tuple[str, ...]) -> str:
    return f'{len(names)} ({", ".join(names[:5])}{", ..." if len(names) > 5 else ""})' if names else 'none'


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('checkpoint', type=Path, help='checkpoint of the trained detector')
    parser.add_argument('out', type=Path, help='the new checkpoint')
    parser.add_argument('--store', required=True, type=Path, help='prepared store with the new classes')
    classes = "CSV of MID, name in the detector's order, if the checkpoint names no classes"
    parser.add_argument('--classes', type=Path, help=classes)
    parser.add_argument('--fill-ancestors', action='store_true', help='start new classes as the mean of descendants')
    args = parser.parse_args()
    with exit_on_error():
        checkpoint = try_load(args.checkpoint)
        store = AnnotationStore(args.store)
        hierarchy = store.hierarchy if args.fill_ancestors else None
        source = read_classes(args.classes) if args.classes else classes_of_checkpoint(checkpoint, str(args.checkpoint))
        conversion = convert_classes(checkpoint.get('state_dict', checkpoint), source, store.classes, hierarchy)
        meta = dict(dataset_meta=dict(classes=store.class_names, label_names=store.label_names))
        with atomic_write(args.out) as temporary:
            torch.save(dict(state_dict=conversion.state_dict, meta=meta), temporary)
    print(f'{args.out}: {len(source)} classes -> {store.num_classes}, in {", ".join(conversion.layers)}')
    print(f'new classes: {first(conversion.new)}; from their descendants: {first(conversion.filled)}')
    print(f'classes left out: {first(conversion.unused)}')
    print(f'Next: mmoid train CONFIG --cfg-options load_from={args.out}')
