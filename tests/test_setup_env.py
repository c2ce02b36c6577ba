"""tools/setup_env.sh, run for real in a copy of the tree, with a stand-in for Python: no network, no installing.

The stand-in answers what the script asks Python and notes what it would have done, so that the order of the steps,
what a second run leaves out and what a failed or killed one leaves behind can be seen in a fraction of a second.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ('bash', 'cat', 'cksum', 'cp', 'date', 'dirname', 'env', 'find', 'flock', 'ls', 'mkdir', 'rm', 'sed')
PROGRAMS += ('readlink', 'sleep', 'tail', 'touch', 'tr', 'uname')
PYTHON = r"""#!/usr/bin/env bash
words="${*//$'\n'/ }"
case "$words" in
    *ensurepip*) [[ ! ${FAKE_UNFIT-} ]] || exit 1; echo "${FAKE_VERSION:-3.11}"; exit ;;
    "- cpu" | "- cuda") cat >/dev/null; echo "$words" >>"$CALLS"
        [[ -e ${FAKE_UNLOADABLE-} ]] || exit 0
        rm "$FAKE_UNLOADABLE"; echo 'undefined symbol: of another torch'; exit 1 ;;
    *get_device_capability*) echo cp311-torch2.13.0+cpu ;;
    *torch.__version__*) echo 2.13.0+cpu ;;
    *check_env.py) [[ ! ${FAKE_UNUSABLE-} ]] || exit 1; echo "$words" >>"$CALLS" ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "$words" >>"$CALLS" ;;
    *"cache list"*) ;;
    "-m pip "*) echo "ops=${MMCV_WITH_OPS-} cuda=${FORCE_CUDA-} $words" >>"$CALLS"
        [[ ! ${FAKE_FAIL-} || $words != *$FAKE_FAIL* ]] || { echo 'ERROR: as the test wants it'; exit 1; }
        [[ ! ${FAKE_HANG-} || $words != *$FAKE_HANG* ]] || { touch "$CALLS.hangs"; exec sleep 30; } ;;
esac
"""


class Checkout:
    """A tree with the set-up scripts and pyproject.toml, and a PATH that holds little more than the stand-in."""

    FILES = ('pyproject.toml', 'tools/setup_env.sh', 'tools/mmcv_operators.sh')

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.calls_file = folder / 'a tree', folder / 'bin', folder / 'calls'
        (self.root / 'tools').mkdir(parents=True)
        for name in self.FILES:
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for name in PROGRAMS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.add_program('python3.11', PYTHON)
        self.add_program('c++', '#!/bin/sh\n')

    @property
    def venv(self) -> Path:
        return self.root / '.venv'

    def add_program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *arguments: str, **environment: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ['bash', str(self.root / 'tools' / 'setup_env.sh'), *arguments],
            env={
                'PATH': str(self.bin),
                'CALLS': str(self.calls_file),
                'HOME': str(self.root.parent),
                'MMOID_DEVICE': 'cpu',
                **{name: str(value) for name, value in environment.items()},
            },
            cwd='/',
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a test can kill it with all that it started
        )

    def run(self, *arguments: str, **environment: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def calls(self) -> list[str]:
        """What the stand-in did since the last time this was asked."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line.replace(' --disable-pip-version-check --no-input', '') for line in lines]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_first_run_does_the_steps_in_order_and_a_second_does_nothing(checkout):
    first = checkout.run()
    assert first.returncode == 0, first.stderr
    assert [line[:5] for line in first.stdout.splitlines()[:6]] == [f'[{i}/6]' for i in range(1, 7)]
    assert 'source .venv/bin/activate' in first.stdout.splitlines()[-1]
    made, tools, local_torch, torch, operators, loads, package, check = checkout.calls()
    assert made == f'-m venv {checkout.venv}'
    assert 'setuptools>=77.0.3,<80' in tools
    assert local_torch.endswith('install --no-index --no-deps torch==2.13.0+cpu'), 'never the CUDA build'
    assert torch.endswith('install torch==2.13.0+cpu')
    assert operators.endswith('install --no-deps --only-binary=:all: onedl-mmcv>=2.3.6') and loads == '- cpu'
    constraints = checkout.venv / 'constraints.txt'
    assert package.endswith(f'install --constraint {constraints} --editable {checkout.root}[onedl,dev]')
    assert constraints.read_text() == 'torch==2.13.0+cpu\n'
    assert check.endswith('check_env.py')
    assert 'torchvision' not in (checkout.venv / 'setup.log').read_text()

    start = time.perf_counter()
    second = checkout.run()
    assert time.perf_counter() - start < 1
    assert second.stdout == '.venv is up to date (onedl, Python 3.11, torch 2.13.0, cpu)\n'
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ('arguments', 'environment', 'told'),
    [
        (['--bogus'], {}, "unknown argument '--bogus'; --help lists what there is"),
        (['--stack'], {}, '--stack needs a name: onedl or openmmlab'),
        (['--venv'], {}, '--venv needs a folder'),
        (['--stack', 'mmcv'], {}, "--stack is onedl or openmmlab, not 'mmcv'"),
        ([], {'MMOID_DEVICE': 'tpu'}, "MMOID_DEVICE is cpu or cuda, not 'tpu'"),
        ([], {'MMOID_TORCH': 'newest'}, "MMOID_TORCH is a version such as 2.13.0, not 'newest'"),
        ([], {'PYTHON': 'python2'}, 'PYTHON=python2 does not run, is not Python 3.10 to 3.12, or lacks'),
        ([], {'FAKE_UNFIT': 1}, 'no Python 3.10 to 3.12 with the modules venv and ensurepip was found'),
    ],
)
def test_invalid_input_is_reported_first(checkout, arguments, environment, told):
    done = checkout.run(*arguments, **environment)
    assert done.returncode == 1 and told in done.stderr
    assert not checkout.venv.exists()


@pytest.mark.parametrize('name', Checkout.FILES)
def test_a_changed_file_completes_the_environment_without_making_a_new_one(checkout, name):
    checkout.run()
    checkout.calls()
    with (checkout.root / name).open('a') as file:
        file.write('# another line\n')
    assert checkout.run().returncode == 0
    calls = checkout.calls()
    assert any('--editable' in call for call in calls) and not any('-m venv' in call for call in calls)


def test_another_stack_makes_a_new_environment_and_is_kept_from_then_on(checkout):
    checkout.run()
    (checkout.venv / 'of-the-first-stack').touch()
    assert checkout.run('--stack', 'openmmlab').returncode == 0
    assert not (checkout.venv / 'of-the-first-stack').exists()
    calls = checkout.calls()
    assert any(call.endswith('--only-binary=:all: mmcv==2.1.0') for call in calls)
    assert any(call.endswith('[openmmlab,dev]') for call in calls)
    assert 'up to date (openmmlab,' in checkout.run().stdout


@pytest.mark.parametrize('form', [('--venv', '{}'), ('--venv={}',)])
def test_a_second_stack_stands_beside_the_first(checkout, form):
    checkout.run()
    checkout.calls()
    other = checkout.root / '.venv-openmmlab'
    arguments = ['--stack', 'openmmlab', *(part.format(other) for part in form)]
    done = checkout.run(*arguments)
    assert done.returncode == 0 and 'source .venv-openmmlab/bin/activate' in done.stdout
    assert f'-m venv {other}' in checkout.calls()
    assert checkout.run(*arguments[2:]).stdout.startswith('.venv-openmmlab is up to date (openmmlab,')
    assert checkout.run().stdout.startswith('.venv is up to date (onedl,')


@pytest.mark.parametrize('change', ['remake', 'python', 'torch', 'moved'])
def test_a_setting_that_cannot_be_changed_creates_a_new_environment(checkout, change):
    checkout.run()
    checkout.calls()
    if change == 'moved':
        checkout.root = checkout.root.rename(checkout.root.with_name('elsewhere'))
    arguments = ['--remake'] if change == 'remake' else []
    environment = {
        'python': {'PYTHON': checkout.bin / 'python3.11', 'FAKE_VERSION': '3.12'},
        'torch': {'MMOID_TORCH': '2.12.0'},
    }
    assert checkout.run(*arguments, **environment.get(change, {})).returncode == 0
    assert f'-m venv {checkout.venv}' in checkout.calls()


def test_a_failing_step_shows_the_log_and_the_next_run_continues(checkout):
    failed = checkout.run(FAKE_FAIL='--editable')
    assert failed.returncode == 1
    assert 'failed with status 1: pip install --constraint' in failed.stderr
    assert '    ERROR: as the test wants it' in failed.stderr
    assert f'The whole log: {checkout.venv}/setup.log' in failed.stderr
    checkout.calls()
    assert checkout.run().returncode == 0
    assert not any('-m venv' in call for call in checkout.calls())


def test_after_a_killed_run_the_environment_is_created_again(checkout):
    process = checkout.start(FAKE_HANG='--editable')
    wait_for(Path(f'{checkout.calls_file}.hangs'))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    checkout.calls()
    (checkout.venv / 'half-written').touch()
    assert checkout.run().returncode == 0
    assert f'-m venv {checkout.venv}' in checkout.calls()
    assert not (checkout.venv / 'half-written').exists()
    assert 'up to date' in checkout.run().stdout


def test_of_two_runs_at_once_one_works_and_the_other_waits_for_it(checkout):
    runs = [checkout.start() for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0]
    assert sum('-m venv' in call for call in checkout.calls()) == 1
    assert sum('up to date' in output for output in outputs) == 1


def test_another_environment_is_not_touched(checkout):
    checkout.venv.mkdir()
    (checkout.venv / 'pyvenv.cfg').touch()
    done = checkout.run()
    assert done.returncode == 1
    assert f"this script did not create it. To move it away: mv '{checkout.venv}'" in done.stderr
    assert [path.name for path in checkout.venv.iterdir()] == ['pyvenv.cfg']


def test_compiling_is_announced_only_if_no_wheel_fits(checkout):
    assert 'No wheel' not in checkout.run().stdout
    checkout.calls()
    done = checkout.run('--remake', FAKE_FAIL='--only-binary')
    assert 'No wheel of onedl-mmcv>=2.3.6 fits Python 3.11 and torch 2.13.0 (cpu): compiling' in done.stdout
    assert '10 to 20 minutes on two cores' in done.stdout and 'PIP_FIND_LINKS=' in done.stdout
    (build,) = [call for call in checkout.calls() if '--no-binary' in call]
    assert build.startswith('ops=1 cuda= -m pip --cache-dir ') and '--no-build-isolation' in build


def test_a_wheel_made_for_another_torch_is_replaced_by_compiling(checkout, tmp_path):
    (tmp_path / 'once').touch()
    done = checkout.run(FAKE_UNLOADABLE=tmp_path / 'once')
    assert done.returncode == 0
    assert 'does not serve with torch 2.13.0 (cpu): undefined symbol: of another torch' in done.stdout
    assert any('--no-binary onedl-mmcv' in call for call in checkout.calls())


def test_without_a_compiler_it_stops_before_compiling(checkout):
    (checkout.bin / 'c++').unlink()
    done = checkout.run(FAKE_FAIL='--only-binary')
    assert done.returncode == 1 and 'there is no C++ compiler' in done.stderr
    assert not any('--no-binary' in call for call in checkout.calls())


def test_with_a_gpu_torch_and_operators_are_those_for_cuda(checkout):
    checkout.add_program('nvidia-smi', '#!/bin/sh\n')
    done = checkout.run(MMOID_DEVICE='', FAKE_FAIL='--only-binary')
    assert done.returncode == 0 and '[3/6] PyTorch 2.13.0 (cuda)' in done.stdout
    calls = checkout.calls()
    assert 'up to date (onedl, Python 3.11, torch 2.13.0, cuda)' in checkout.run(MMOID_DEVICE='').stdout
    assert [call for call in calls if 'torch==' in call] == ['ops= cuda= -m pip install torch==2.13.0,!=2.13.0+cpu']
    assert any(call.startswith('ops=1 cuda=1 ') for call in calls)


def test_an_environment_for_the_cpu_stays_so_until_told_otherwise(checkout):
    checkout.run()
    checkout.add_program('nvidia-smi', '#!/bin/sh\n')
    assert 'up to date' in checkout.run(MMOID_DEVICE='').stdout
    assert '[3/6] PyTorch 2.13.0 (cuda)' in checkout.run(MMOID_DEVICE='cuda').stdout


def test_an_environment_that_fails_its_check_is_not_up_to_date(checkout):
    done = checkout.run(FAKE_UNUSABLE=1)
    assert done.returncode == 1 and 'the environment has the problems above' in done.stderr
    assert 'Ready' in checkout.run().stdout


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f'{path} did not appear'
        time.sleep(0.02)
