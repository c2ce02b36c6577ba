"""tools/setup_env.sh, run for real in a copy of the tree, with a stand-in for Python: no network, no installing.

The stand-in answers what the script asks Python and notes what it would have done, so that the order of the steps,
what a second run leaves out and what a failed or killed one leaves behind can be seen in a fraction of a second.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ('bash', 'cat', 'cksum', 'cp', 'date', 'dirname', 'env', 'find', 'flock', 'ls', 'mkdir', 'rm', 'sed')
PROGRAMS += ('df', 'gzip', 'mv', 'readlink', 'sleep', 'tail', 'tar', 'touch', 'tr', 'uname')
PYTHON = r"""#!/usr/bin/env bash
words="${*//$'\n'/ }"
case "$words" in
    *ensurepip*) [[ ! ${FAKE_UNFIT-} ]] || exit 1; echo "${FAKE_VERSION:-3.11}"; exit ;;
    "- cpu" | "- cuda") cat >/dev/null; echo "$words" >>"$CALLS"
        [[ -e ${FAKE_UNLOADABLE-} ]] || exit 0
        rm "$FAKE_UNLOADABLE"; echo 'undefined symbol: of another torch'; exit 1 ;;
    *get_device_capability*) echo cp311-torch2.13.0+cpu ;;
    "-m pytest"*) echo "$words" >>"$CALLS" ;;
    *torch.__version__*) echo 2.13.0+cpu ;;
    *check_env.py) [[ ! ${FAKE_UNUSABLE-} ]] || exit 1; echo "$words" >>"$CALLS" ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "PATH='$3/bin':\$PATH" >"$3/bin/activate"
        echo "$words" >>"$CALLS" ;;
    "-m pip "*) echo "ops=${MMCV_WITH_OPS-} cuda=${FORCE_CUDA-} $words" >>"$CALLS"
        [[ ! ${FAKE_FAIL-} || $words != *$FAKE_FAIL* ]] || { echo "ERROR: ${FAKE_ERROR-as the test wants it}"; exit 1; }
        [[ ! ${FAKE_HANG-} || $words != *$FAKE_HANG* ]] || { touch "$CALLS.hangs"; exec sleep 30; } ;;&
    *" download "*" --dest "*) while [[ $1 != --dest ]]; do shift; done
        mkdir -p "$2/mmcv-1/mmcv/ops/csrc/pytorch/cpu"
        touch "$2/mmcv-1/mmcv/ops/csrc/pytorch/"{nms,roi_align,cpu/nms}.cpp
        tar -czf "$2/mmcv-1.tar.gz" -C "$2" mmcv-1
        rm -r "$2/mmcv-1" ;;
    *" --wheel-dir "*) while [[ $1 != --wheel-dir ]]; do shift; done
        touch "$2/mmcv-1.whl"
        cd "$3/mmcv/ops/csrc/pytorch"
        echo "compiles" *.cpp cpu/*.cpp ":$(cat *.cpp | tr '\n' ' ')$CFLAGS" >>"$CALLS" ;;
esac
"""


class Checkout:
    """A copy of the set-up scripts, and a PATH with little more than the stand-in."""

    FILES = ('pyproject.toml', 'tools/setup_env.sh', 'tools/mmcv_operators.sh')
    """Files that the environment depends on."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.calls_file = folder / 'a tree', folder / 'bin', folder / 'calls'
        self.venv = self.root / '.venv'
        (self.root / 'tools').mkdir(parents=True)
        for name in (*self.FILES, 'tools/run_tests.sh'):
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for name in PROGRAMS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.add_program('python3.11', PYTHON)
        self.add_program('c++', '#!/bin/sh\n')

    def add_program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *arguments: object, script: str = 'setup_env.sh', **environment: object) -> subprocess.Popen[str]:
        settings = {'PATH': self.bin, 'CALLS': self.calls_file, 'HOME': self.root.parent, 'MMOID_DEVICE': 'cpu'}
        return subprocess.Popen(
            ['bash', str(self.root / 'tools' / script), *map(str, arguments)],
            env={name: str(value) for name, value in (settings | environment).items()},
            cwd='/',
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a test can kill it with all that it started
        )

    def run(self, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **options)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def calls(self) -> list[str]:
        """Calls of the stand-in since the last time."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line.replace(' --disable-pip-version-check --no-input', '') for line in lines]


@pytest.fixture
def fresh(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def ready(fresh: Checkout) -> Checkout:
    """After a successful run for the CPU."""
    assert fresh.run().returncode == 0
    fresh.calls()
    return fresh


def test_a_first_run_does_the_steps_in_order_and_a_second_does_nothing(fresh):
    first = fresh.run()
    assert first.returncode == 0, first.stderr
    assert [line[:5] for line in first.stdout.splitlines()[:6]] == [f'[{i}/6]' for i in range(1, 7)]
    assert 'source .venv/bin/activate' in first.stdout.splitlines()[-1] and 'No wheel' not in first.stdout
    made, tools, local_torch, torch, operators, loads, package, check = fresh.calls()
    assert made == f'-m venv {fresh.venv}'
    assert 'setuptools>=77.0.3,<80' in tools
    assert local_torch.endswith('install --no-index --no-deps torch==2.13.0+cpu'), 'never the CUDA build'
    assert torch.endswith('install torch==2.13.0+cpu')
    assert operators.endswith('install --no-deps --only-binary=:all: onedl-mmcv>=2.3.6') and loads == '- cpu'
    constraints = fresh.venv / 'constraints.txt'
    assert package.endswith(f'install --constraint {constraints} --editable {fresh.root}[onedl,dev]')
    assert constraints.read_text() == 'torch==2.13.0+cpu\n'
    assert check.endswith('check_env.py')
    assert fresh.run().stdout == '.venv is up to date (onedl, Python 3.11, torch 2.13.0, cpu)\n'
    assert fresh.calls() == []


@pytest.mark.parametrize(
    ('arguments', 'environment', 'message'),
    [
        (['--bogus'], {}, "unknown argument '--bogus'; --help lists what there is"),
        (['--stack'], {}, '--stack needs a name: onedl or openmmlab'),
        (['--stack', 'mmcv'], {}, "--stack is onedl or openmmlab, not 'mmcv'"),
        ([], {'MMOID_DEVICE': 'tpu'}, "MMOID_DEVICE is cpu or cuda, not 'tpu'"),
        ([], {'MMOID_TORCH': 'newest'}, "MMOID_TORCH is a version such as 2.13.0, not 'newest'"),
        ([], {'PYTHON': 'python2'}, 'PYTHON=python2 does not run, is not Python 3.10 to 3.12, or lacks'),
        ([], {'FAKE_UNFIT': 1}, 'no Python 3.10 to 3.12 with the modules venv and ensurepip was found'),
    ],
)
def test_invalid_input_is_reported_first(fresh, arguments, environment, message):
    done = fresh.run(*arguments, **environment)
    assert done.returncode == 1 and message in done.stderr
    assert not fresh.venv.exists()


def test_a_changed_file_completes_the_environment_without_making_a_new_one(ready):
    for name in Checkout.FILES:
        with (ready.root / name).open('a') as file:
            file.write('# another line\n')
        assert ready.run().returncode == 0
        calls = ready.calls()
        assert any('--editable' in call for call in calls) and not any('-m venv' in call for call in calls), name


@pytest.mark.parametrize('change', ['stack', 'remake', 'python', 'torch', 'moved', 'python removed'])
def test_what_cannot_be_changed_in_place_makes_a_new_environment(ready, change):
    (ready.venv / 'of-the-first').touch()
    if change == 'moved':
        ready.root = ready.root.rename(ready.root.with_name('elsewhere'))
        ready.venv = ready.root / '.venv'
    elif change == 'python removed':
        (ready.venv / 'bin' / 'python').write_text('#!/nowhere/python')
    arguments = {'remake': ['--remake'], 'stack': ['--stack', 'openmmlab']}
    environment = {
        'python': {'PYTHON': ready.bin / 'python3.11', 'FAKE_VERSION': '3.12'},
        'torch': {'MMOID_TORCH': '2.12.0'},
    }
    assert ready.run(*arguments.get(change, []), **environment.get(change, {})).returncode == 0
    calls = ready.calls()
    assert f'-m venv {ready.venv}' in calls and not (ready.venv / 'of-the-first').exists()
    if change == 'stack':
        assert any(call.endswith('--only-binary=:all: mmcv==2.1.0') for call in calls)
        assert any(call.endswith('[openmmlab,dev]') for call in calls)
        assert 'up to date (openmmlab,' in ready.run().stdout, 'the stack is kept from then on'


def test_a_second_stack_stands_beside_the_first(ready):
    done = ready.run('--stack', 'openmmlab', '--venv', ready.root / '.venv-openmmlab')
    assert done.returncode == 0 and 'source .venv-openmmlab/bin/activate' in done.stdout
    again = ready.run(f'--venv={ready.root}/.venv-openmmlab')
    assert again.stdout.startswith('.venv-openmmlab is up to date (openmmlab,')
    assert ready.run().stdout.startswith('.venv is up to date (onedl,')


def test_run_tests_makes_the_environment_and_passes_the_other_arguments_on(fresh):
    for form in (('--stack', 'openmmlab', '--venv', fresh.root / 'other'), (f'--venv={fresh.root}/other',)):
        assert fresh.run(*form, '-k', 'name', script='run_tests.sh').returncode == 0
        assert fresh.calls()[-1].endswith(' -k name')
    assert fresh.run('--venv', script='run_tests.sh').stderr == 'setup_env.sh: --venv needs a folder\n'


def test_a_failing_step_shows_the_log_and_the_next_run_continues(fresh):
    failed = fresh.run(FAKE_FAIL='--editable')
    assert failed.returncode == 1
    assert 'failed with status 1: pip install --constraint' in failed.stderr
    assert '    ERROR: as the test wants it' in failed.stderr
    assert f'The whole log: {fresh.venv}/setup.log' in failed.stderr
    failed = fresh.run(FAKE_UNUSABLE=1)
    assert failed.returncode == 1 and 'the environment has the problems above' in failed.stderr
    fresh.calls()
    assert 'Ready' in fresh.run().stdout
    assert not any('-m venv' in call for call in fresh.calls())


def test_after_a_killed_run_the_environment_is_created_again(fresh):
    process = fresh.start(FAKE_HANG='--editable')
    deadline = time.monotonic() + 30
    while not Path(f'{fresh.calls_file}.hangs').exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (fresh.venv / 'half-written').touch()
    assert fresh.run().returncode == 0
    assert not (fresh.venv / 'half-written').exists()


def test_of_two_runs_at_once_one_works_and_the_other_waits_for_it(fresh):
    runs = [fresh.start() for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0]
    assert sum('-m venv' in call for call in fresh.calls()) == 1
    assert sum('up to date' in output for output in outputs) == 1


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        ('NewConnectionError: Name or service not known', 'error: pip cannot reach the package index'),
        ('OSError: [Errno 28] No space left on device', 'error: the disk is full'),
    ],
)
def test_a_well_known_cause_is_named(fresh, output, message):
    assert message in fresh.run(FAKE_FAIL='torch==', FAKE_ERROR=output).stderr


def test_a_place_that_cannot_be_written_is_reported(fresh):
    (fresh.root / 'file').touch()
    done = fresh.run('--venv', fresh.root / 'file' / 'venv')
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert f'{fresh.root}/file is not a writable directory; --venv FOLDER' in done.stderr


def test_an_environment_of_others_is_not_touched(ready, tmp_path):
    other = Checkout(tmp_path / 'other')
    other.venv.mkdir()
    (other.venv / 'pyvenv.cfg').touch()
    assert f"this script did not create it. To move it away: mv '{other.venv}'" in other.run().stderr
    assert [path.name for path in other.venv.iterdir()] == ['pyvenv.cfg']
    shutil.rmtree(other.venv)
    other.venv.symlink_to(ready.venv)
    for arguments in ((), ('--remake',), ('--venv', ready.venv)):
        done = other.run(*arguments)
        assert done.returncode == 1 and f'belongs to the checkout {ready.root}' in done.stderr
    assert ready.run().stdout.startswith('.venv is up to date')


def test_without_a_fitting_wheel_the_operators_are_compiled_as_one_file_and_kept(fresh):
    done = fresh.run(FAKE_FAIL='--only-binary')
    assert done.returncode == 0, done.stderr
    assert 'No wheel of onedl-mmcv>=2.3.6 fits Python 3.11 and torch 2.13.0 (cpu): compiling' in done.stdout
    calls = fresh.calls()
    (build,) = [call for call in calls if 'pip wheel' in call]
    assert build.startswith('ops=1 cuda= ') and '--no-build-isolation --no-deps' in build
    includes = '#include "parts/nms.cpp" #include "parts/roi_align.cpp"'
    assert f'compiles all_operators.cpp cpu/nms.cpp :{includes}  -g0' in calls
    fresh.run('--remake', FAKE_FAIL='--only-binary')
    assert any(call.endswith('onedl-mmcv--2.3.6/mmcv-1.whl') for call in fresh.calls()), 'the kept wheel'


def test_operators_that_cannot_be_compiled_as_one_file_are_compiled_one_by_one(fresh, tmp_path):
    done = fresh.run(FAKE_FAIL='@(--only-binary|mmcv-source/united)')
    assert done.returncode == 0 and 'compiling each file on its own' in done.stdout
    assert 'compiles nms.cpp roi_align.cpp cpu/nms.cpp : -g0' in fresh.calls()
    shutil.rmtree(fresh.root.parent / '.cache')

    (tmp_path / 'once').touch()
    done = fresh.run('--remake', FAKE_UNLOADABLE=tmp_path / 'once')
    assert 'does not serve with torch 2.13.0 (cpu): undefined symbol: of another torch' in done.stdout
    assert any('pip wheel' in call for call in fresh.calls())
    shutil.rmtree(fresh.root.parent / '.cache')

    (fresh.bin / 'c++').unlink()
    done = fresh.run('--remake', FAKE_FAIL='--only-binary')
    assert done.returncode == 1 and 'there is no C++ compiler' in done.stderr
    assert not any('pip wheel' in call for call in fresh.calls())


def test_a_gpu_is_used_by_a_new_environment_or_on_request(ready):
    ready.add_program('nvidia-smi', '#!/bin/sh\n')
    assert 'torch 2.13.0, cpu)' in ready.run(MMOID_DEVICE='').stdout
    done = ready.run(MMOID_DEVICE='cuda', FAKE_FAIL='--only-binary')
    assert done.returncode == 0 and '[3/6] PyTorch 2.13.0 (cuda)' in done.stdout
    calls = ready.calls()
    assert [call for call in calls if 'torch==' in call] == ['ops= cuda= -m pip install torch==2.13.0,!=2.13.0+cpu']
    assert any(call.startswith('ops=1 cuda=1 ') for call in calls)
    shutil.rmtree(ready.venv)
    assert '[3/6] PyTorch 2.13.0 (cuda)' in ready.run(MMOID_DEVICE='').stdout
