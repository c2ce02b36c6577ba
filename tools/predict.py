r"""Predicts on images without annotations: a folder, files, a glob, or a list of ids.

    python tools/predict.py CONFIG CHECKPOINT photos --out work_dirs/photos --draw work_dirs/drawn
    python tools/predict.py CONFIG CHECKPOINT sample_submission.csv --images images/test --out work_dirs/test \
        --submission submission.csv.gz

--out is a PredictionStore, as of tools/test.py --out. Run a killed command again to resume it. The data of the config
is not needed. Images that cannot be read are skipped and listed. tools/dist_predict.sh starts several processes.
"""

import argparse
import os
import sys
from pathlib import Path

import pyarrow as pa
from mmengine.config import Config
from mmengine.dist import is_main_process
from torch.distributed.elastic.multiprocessing.errors import record

from mmoid.engine.hooks import STATUS_FILE
from mmoid.engine.launch import build_runner, end_launch, load_config, one_line_error, parse_run_args
from mmoid.engine.resume.checkpoint_hook import try_load
from mmoid.engine.settings import enable_out, enable_tta, predict_on
from mmoid.models.checkpoint_classes import classes_of_checkpoint, tree_of_checkpoint
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions import images_to_predict as inputs
from mmoid.openimages.predictions.csv_files import require_plain, write_rows, write_submission
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.readers.csv_files import read_classes
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.utils.command_line import positive_int, tool_parser
from mmoid.utils.progress import print_changes, progress_bars
from mmoid.visualization.figures import save
from mmoid.visualization.label_sets import draw_predictions

SHOWN = 10
"""Skipped images that are printed."""


def prepare(args: argparse.Namespace, images: inputs.Images) -> AnnotationStore:
    """The store of the images, which the first process makes."""

    def classes() -> tuple[ClassNames, dict]:
        checkpoint = try_load(args.checkpoint)
        names = read_classes(args.classes) if args.classes else classes_of_checkpoint(checkpoint, args.checkpoint)
        return names, tree_of_checkpoint(checkpoint, names)

    files = [os.stat(path) for path in (args.checkpoint, args.classes) if path is not None and '://' not in path]
    key = images.key(args.checkpoint, args.classes, [(file.st_size, file.st_mtime_ns) for file in files])
    path, parts = f'{args.out}.store', Path(f'{args.out}.parts')
    if parts.is_dir() and not args.restart and not inputs.is_store_of(path, key):
        raise AnnotationError(
            f'{parts}: is of a killed run on other images or with other weights; remove it with --restart'
        )
    with progress_bars() as progress:
        return inputs.image_store(path, images, key, classes, progress)


def write_outputs(args: argparse.Namespace, images: inputs.Images, store: AnnotationStore) -> None:
    predictions = PredictionStore(args.out)
    print(f'{args.out}: {len(predictions.label):,} detections on {predictions.num_images:,} images')
    least = args.score_thr or 0.0
    with progress_bars() as progress:
        if args.csv:
            print(f'{args.csv}: {write_rows(args.csv, predictions, least, progress):,} detections')
        if args.submission:
            ids = images.ids.to_pylist()
            counts = write_submission(args.submission, predictions, ids, min_score=least, progress=progress)
            print(f'{args.submission}: {counts["detections"]:,} detections, {counts["images"]:,} images')
        for image, image_id in enumerate(store.image_ids() if args.draw else ()):
            figure = draw_predictions(store, predictions, [image], 0.3 if args.score_thr is None else args.score_thr)
            save(figure, args.draw / f'{image_id.replace("/", "-")}.png', dpi=200)
            progress('drawing', image + 1, store.num_images)
    if args.draw:
        print(f'{args.draw}: {store.num_images:,} drawings')


@record  # torchrun repeats the exception of a rank that fails
def predict(args: argparse.Namespace) -> None:
    summary = Summary()
    with one_line_error():
        require_replaceable(args.out, overwrite=True)
        for folder in filter(os.path.isdir, [*args.inputs, args.images or '']):
            if args.draw and args.draw.absolute().is_relative_to(Path(folder).absolute()):
                raise ValueError(f'--draw {args.draw}: is inside {folder}; the next run would predict on the drawings')
        images = inputs.find_inputs(args.inputs, args.images, summary)
        store = prepare(args, images)
        if args.submission:  # fail now, not at the end
            require_plain('image id', images.ids)
            require_plain('class', pa.array(store.label_names))
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        cfg.load_from = args.checkpoint
        predict_on(cfg, str(store.path), args.batch_size)
        if args.tta:
            enable_tta(cfg)
        enable_out(cfg, args.out, args.restart)
        cfg.test_evaluator = cfg.test_evaluator[-1:]
        build_runner(Config(cfg.to_dict())).test()  # without a file name, see tools/test.py
        first = is_main_process()
        end_launch()
        if not first:
            return
        write_outputs(args, images, store)
    print_changes(summary)
    skipped = inputs.skipped_images(store)
    if skipped:
        print(f'skipped {len(skipped):,} of {len(images.ids):,} images; {store.path / inputs.SKIPPED} has all reasons')
        print(''.join(f'  {image_id}: {reason}\n' for image_id, reason in skipped[:SHOWN]), end='')
    if not args.submission:
        print(f'Next: mmoid submission {args.out} --out submission.csv.gz')
    if skipped and args.strict:
        if STATUS_FILE in os.environ:  # else torchrun ends with a traceback
            Path(os.environ[STATUS_FILE]).write_text('1')
        sys.exit(1)


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='config file path, or a recipe such as mmoid::openimages/....py')
    parser.add_argument('checkpoint', help='checkpoint file')
    what = 'folders, image files or globs; or one list of ids, .csv or .txt, such as the sample submission'
    parser.add_argument('inputs', nargs='+', help=what)
    parser.add_argument('--images', help='folder of the images of a list')
    parser.add_argument('--out', required=True, help='folder for the predictions; OUT.store lists the images')
    parser.add_argument('--csv', help='write a row for each detection too, .csv or .csv.gz')
    parser.add_argument('--submission', help="write the challenge's format too, a row for each image of the list")
    parser.add_argument('--draw', type=Path, help='folder for a drawing of each image')
    score = 'lowest score in --csv and --submission (default: 0) and in --draw (default: 0.3)'
    parser.add_argument('--score-thr', type=float, help=score)
    parser.add_argument('--batch-size', type=positive_int, help="images per batch and process (default: the config's)")
    parser.add_argument('--classes', help="CSV of MID, name in the model's order, if the checkpoint names no classes")
    parser.add_argument('--strict', action='store_true', help='exit with status 1 at the end if images were skipped')
    parser.add_argument('--restart', action='store_true', help='delete the results of a killed run')
    parser.add_argument('--work-dir', help='the directory of the logs')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation, by tta_model and tta_pipeline')
    predict(parse_run_args(parser))
