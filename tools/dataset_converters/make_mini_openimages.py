"""Makes a small training and validation set with the class ratios of a large one (Sec. 5.1 of the paper).

    python tools/dataset_converters/make_mini_openimages.py data/openimages/train --out data/openimages-mini

Writes two disjoint parts of the store, DIR/train and DIR/validation; images are not copied. The same store, sizes and
seed give the same parts. For concurrent softmax, run tools/analysis_tools/concurrent_rates.py on DIR/train next.
"""

from pathlib import Path

import numpy as np

from mmoid.openimages.statistics.mini_split import box_deviation, image_deviation, split_images
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.writing import require_writable, subset_stores
from mmoid.utils.command_line import exit_on_error, positive_int, tool_parser
from mmoid.utils.progress import print_table, progress_bars

LEAST_EXPECTED = 100
"""Relative deviations of rarer classes show only rounding."""


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    parser.add_argument('--out', required=True, type=Path, help='folder for the stores train and validation')
    parser.add_argument('--train', type=positive_int, default=115_000, help='training images (default: %(default)s)')
    parser.add_argument('--validation', type=int, default=5_000, help='images for validation, or 0 (default: 5000)')
    parser.add_argument('--seed', type=int, default=0, help='another seed draws other images (default: %(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='replace existing stores')
    args = parser.parse_args()
    with exit_on_error():
        sizes = {'train': args.train} | ({'validation': args.validation} if args.validation else {})
        store = AnnotationStore(args.store)
        require_writable(store, [args.out / name for name in sizes], args.overwrite)
        with progress_bars() as progress:
            parts = dict(zip(sizes, split_images(store, list(sizes.values()), args.seed, progress)))
        rows, boxes_of_image = [], np.diff(store.box_stop, prepend=0)
        for name, images in {'whole': np.arange(store.num_images), **parts}.items():
            boxes, present = boxes_of_image[images], np.count_nonzero(box_deviation(store, images)[1])
            rows.append((name, *(f'{count:,}' for count in (len(images), (boxes == 0).sum(), boxes.sum(), present))))
        columns = ('', 'images', 'without boxes', 'boxes', 'classes present')
        print_table(rows, *columns, title='What the parts hold')

        rows = []
        for name, images in parts.items():
            for unit, (expected, got) in (
                ('images', image_deviation(store, images)),
                ('images, with descendants', image_deviation(store, images, expand_hierarchy=True)),
                ('boxes', box_deviation(store, images)),
            ):
                difference = got - expected
                relative = np.divide(difference, expected, out=np.zeros(len(expected)), where=expected > 0)
                largest = np.abs(difference).argmax()
                largest_relative = np.where(expected >= LEAST_EXPECTED, np.abs(relative), 0).argmax()
                for title, label in ((f'{name}: {unit}', largest), ('', largest_relative)):
                    counts = (f'{expected[label]:,.2f}', f'{got[label]:,}', f'{difference[label]:+,.2f}')
                    rows.append((title, store.class_names[label], *counts, f'{relative[label]:+.2%}'))
        columns = ('', 'class', 'expected', 'got', 'difference', 'relative')
        print_table(rows, *columns, title='Largest deviations')
        print(f'Second lines: the largest relative deviation of classes expected at least {LEAST_EXPECTED} times.')

        new = {args.out / name: images for name, images in parts.items()}
        with progress_bars() as progress:
            subset_stores(store, new, {'seed': args.seed, 'sizes': sizes}, args.overwrite, progress)
    print(f'{", ".join(map(str, new))}: written, seed {args.seed}')
    print(f'Next: mmoid rates {args.out / "train"} --out {args.out}/concurrent_rates.npz')
