"""Converts a store to a COCO JSON file that pycocotools and mmdet's CocoDataset load.

    python tools/dataset_converters/export_coco.py data/openimages/validation --out openimages_validation.json

Image-level labels go into `pos_category_ids` and `neg_category_ids` of images, the hierarchy into `info`;
tools/dataset_converters/import_coco.py reads both again.
"""

from mmoid.openimages.readers.coco import export_coco
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.utils.progress import progress_bars

if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    parser.add_argument('--out', required=True, help='the new COCO file')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    args = parser.parse_args()
    with exit_on_error(), progress_bars() as progress:
        store = AnnotationStore(args.store)
        export_coco(store, args.out, overwrite=args.overwrite, progress=progress)
    print(f'{args.out}: {store.num_images:,} images, {store.num_boxes:,} boxes, {store.num_classes:,} classes')
