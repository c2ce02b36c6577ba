"""The code in the README and in docs/tour.ipynb works as printed, and commands in docs name what there is."""

import json
import re
import sys

import pytest
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmoid.__main__ import COMMANDS
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.tool_runs import ROOT, run

README = (ROOT / 'README.md').read_text()
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
SHARED_OPTIONS = (
    'mmoid/utils/command_line.py',
    'mmoid/engine/launch.py',
    'tools/benchmarks/measure.py',
    'tools/benchmarks/full_size.py',
)
HOURS = ('reproduce.py',)  # trains for hours, on data that it makes
SCRIPTS = {'dist_train.sh': 'train.py', 'dist_test.sh': 'test.py', 'dist_predict.sh': 'predict.py'}


def test_the_lines_for_your_own_config_build_a_detector_and_its_stages(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    model, stages = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    base = "_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']\n"
    text = (base + model + stages).replace('data/openimages', str(tiny_data)).replace('=500', f'={store.num_classes}')
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(cfg.model)
        hook = HOOKS.build(cfg.custom_hooks[0])
    assert type(detector.roi_head.bbox_head).__name__ == 'LabelSetBBoxHead'
    assert detector.roi_head.bbox_head.loss_cls.rates.any()
    assert sum(stage.epochs for stage in hook.stages) == cfg.train_cfg.max_epochs


def commands_of(page):
    """Tool, relative to tools, and options of each command in the code blocks of a page."""
    for block in re.findall(r'```bash\n(.*?)```', page.read_text(), re.DOTALL):
        for line in re.sub(r'\\\n', ' ', block).splitlines():
            for named, options in re.findall(r'(?:^|\s)(?:tools/|mmoid )([\w/-]+(?:\.py|\.sh)?)(.*)', line):
                tool = COMMANDS.get(named, named)
                if tool.endswith(('.py', '.sh')):
                    yield tool, set(re.findall(r' (--[a-z][\w-]*)', options))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_tools_and_options_in_commands_exist_and_a_test_runs_each_tool(page):
    tests = ''.join(path.read_text() for path in (ROOT / 'tests').rglob('*.py'))
    for tool, options in commands_of(page):
        script = ROOT / 'tools' / tool
        assert script.is_file(), tool
        assert tool in HOURS or re.search(rf'\b{script.stem}\b', tests), f'no test runs {tool}'
        parsers = [ROOT / 'tools' / SCRIPTS.get(tool, tool), *(ROOT / path for path in SHARED_OPTIONS)]
        source = ''.join(path.read_text() for path in parsers)
        assert not {option for option in options if option not in source}, tool


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = json.loads((ROOT / 'docs' / 'tour.ipynb').read_text())['cells']
    code = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    assert len(code) > 5 and all(not cell.get('outputs') for cell in cells)
    code[-1] += '\nprint("mAP", figures["openimages/mAP"])'
    done = run(sys.executable, '-c', '\n'.join(code), folder=tmp_path, timeout=600)
    assert done.stdout.splitlines()[-1].startswith('mAP 0.')
