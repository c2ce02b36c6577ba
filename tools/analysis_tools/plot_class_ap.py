r"""Plots the AP of each class in two evaluations, from the most to the least frequent class (Fig. 5 of the paper).

    python tools/analysis_tools/plot_class_ap.py baseline.json ours.json --store data/openimages/train \
        --out class_ap.png --names baseline 'soft balance'

The evaluations are files of tools/analysis_tools/evaluate_predictions.py --out. The store is the training split; it
says how many images each class has.
"""

import json
import sys
from pathlib import Path

import numpy as np

from mmoid.openimages.metric.result import read_ap
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.visualization.figures import draw_class_ap, save

RULES = ('metric', 'group_of_weight', 'iou', 'expand_detections', 'ancestor_nms', 'num_images', 'protocol')


def ap_of(path: str, store: AnnotationStore) -> np.ndarray:
    """(C,) by class of the store, NaN where there is none."""
    by_name = read_ap(path)
    ap = np.full(store.num_classes, np.nan)
    ap[store.classes.indices(by_name, path)] = list(by_name.values())
    return ap


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('first', help='JSON of the first evaluation')
    parser.add_argument('second', help='JSON of the second evaluation')
    parser.add_argument('--store', required=True, help='store of the training split')
    parser.add_argument('--out', required=True, help='PNG file for the figure')
    parser.add_argument('--names', nargs=2, metavar='NAME', help='names in the legend (default: the file names)')
    args = parser.parse_args()
    names = tuple(args.names or (Path(args.first).stem, Path(args.second).stem))
    with exit_on_error():
        store = AnnotationStore(args.store)
        first, second = ap_of(args.first, store), ap_of(args.second, store)
        both, alone = ~np.isnan(first) & ~np.isnan(second), np.isnan(first) ^ np.isnan(second)
        means = f'mAP {first[both].mean():.4f} ({names[0]}), {second[both].mean():.4f} ({names[1]})'
        print(f'{both.sum()} classes, {means}')
        one, other = (json.loads(Path(path).read_text()) for path in (args.first, args.second))
        different = next((rule for rule in RULES if one.get(rule) != other.get(rule)), None)
        if different is not None:
            values = f'{one.get(different)} in {args.first}, {other.get(different)} in {args.second}'
            warning = f'the evaluations do not have the same rules: {different} is {values}'
            print(f'warning: {warning}', file=sys.stderr)
        if alone.any():
            name = store.class_names[int(alone.argmax())]
            print(f'{alone.sum()} classes with an AP in one of them only were left out, first {name!r}')
        print(save(draw_class_ap(store.class_image_counts(), first, second, store.class_names, names), args.out))
