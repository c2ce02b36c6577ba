"""Which MMDetection stack is installed, and what is wrong with it.

Two sets of distributions provide the import names ``mmdet``, ``mmcv`` and ``mmengine``: the maintained forks
(``onedl``) and the originals (``openmmlab``). mmoid runs on either. What goes wrong with them goes wrong late and with
messages that name something else, so it is looked for here, before anything of theirs is imported.

Needs nothing but the standard library, and imports the frameworks only to see whether they import.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        what: What is wrong, with the versions and paths found.
        remedy: The one shell command that mends it.
    """

    what: str
    remedy: str


@dataclass(frozen=True)
class Requirement:
    """A distribution and the versions of it that mmoid's stack takes: ``at_least <= version < below``."""

    distribution: str
    at_least: str
    below: str

    def __str__(self) -> str:
        return f'{self.distribution}>={self.at_least},<{self.below}'


# By stack, then by import name. The ranges of `openmmlab` are those that mmdet 3.3.0 asserts when it is imported (its
# __init__.py); the forks assert nothing, so theirs are mmoid's own (pyproject.toml).
STACKS: Mapping[str, Mapping[str, Requirement]] = {
    'onedl': {
        'mmdet': Requirement('onedl-mmdetection', '3.5.1', '4'),
        'mmcv': Requirement('onedl-mmcv', '2.3.6', '3'),
        'mmengine': Requirement('onedl-mmengine', '0.10.12', '1'),
    },
    'openmmlab': {
        'mmdet': Requirement('mmdet', '3.3.0', '4'),
        'mmcv': Requirement('mmcv', '2.0.0rc4', '2.2.0'),
        'mmengine': Requirement('mmengine', '0.7.1', '1.0.0'),
    },
}
# What else installs a package of one of those names: mmcv without operators, and mmcv 1.x.
_STRAYS = {'mmcv-lite': 'mmcv', 'onedl-mmcv-lite': 'mmcv', 'mmcv-full': 'mmcv'}
_IMPORT_NAMES = {
    **{need.distribution: name for needs in STACKS.values() for name, need in needs.items()},
    **_STRAYS,
}
_OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless')
_TORCH = '2.4'
_PYTHONS = ((3, 10), (3, 12))
_CHECKOUT = Path(__file__).resolve().parents[1]


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None. Reads its metadata and imports nothing."""
    for found in Distribution.discover(name=distribution):
        return found.version
    return None


def import_name(distribution: str) -> str:
    """Which of ``mmdet``, ``mmcv``, ``mmengine`` a distribution of either stack provides."""
    return _IMPORT_NAMES[distribution]


def installed_stack() -> dict[str, str]:
    """The distributions that provide mmdet, mmcv or mmengine here, with their versions."""
    versions = {name: installed_version(name) for name in _IMPORT_NAMES}
    return {name: version for name, version in versions.items() if version is not None}


def stack_name(versions: Mapping[str, str]) -> str | None:
    """Which stack ``versions`` (distribution -> version) belong to: that of mmdet, else of whatever there is."""
    for name in ('mmdet', 'mmengine', 'mmcv'):
        for stack, needs in STACKS.items():
            if needs[name].distribution in versions:
                return stack
    return None


def distribution_problems(versions: Mapping[str, str]) -> list[Problem]:
    """What is wrong with a set of distributions, by their names and versions alone.

    Args:
        versions: Distribution -> version, as :func:`installed_stack` gives it.

    Returns:
        No stack; or one name provided by two of them; or a mixture of stacks; or each part that is missing or of a
        version that the others refuse. The first of these kinds only, since its remedy settles the rest.
    """
    stack = stack_name(versions) or 'onedl'
    set_up = set_up_command(stack, versions)
    if not versions:
        return [Problem('no MMDetection stack is installed (mmdet, mmcv, mmengine)', set_up)]
    providers: dict[str, list[str]] = {name: [] for name in STACKS[stack]}
    for distribution, version in versions.items():
        providers[import_name(distribution)].append(f'{distribution} {version}')
    doubled = [f'{name} by {" and ".join(found)}' for name, found in providers.items() if len(found) > 1]
    if doubled:
        return [Problem(f'provided twice, into one folder, each over the other: {"; ".join(doubled)}', set_up)]
    own = {need.distribution for need in STACKS[stack].values()}
    if versions.keys() - own - _STRAYS.keys():
        parts = ', '.join(f'{name} {version}' for name, version in versions.items())
        return [Problem(f'parts of both stacks are mixed: {parts}', set_up)]
    problems = []
    for name, need in STACKS[stack].items():
        found = versions.get(need.distribution)
        remedy = set_up if name == 'mmcv' else _pip('install', str(need))
        if found is None and providers[name]:
            what = f'mmcv comes from {providers[name][0]}, which is not the mmcv 2 with compiled operators'
            problems.append(Problem(what, remedy))
        elif found is None:
            problems.append(Problem(f'{need.distribution} is missing, the {name} of the {stack} stack', remedy))
        elif not _release(need.at_least) <= _release(found) < _release(need.below):
            owner = 'mmdet 3.3' if stack == 'openmmlab' and name != 'mmdet' else 'mmoid'
            what = f'{need.distribution} {found} is installed; {owner} takes >={need.at_least},<{need.below}'
            problems.append(Problem(what, remedy))
    return problems


def python_problems() -> list[Problem]:
    """Whether this Python is one that both stacks run on."""
    if _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        return []
    what = f'Python {sys.version.split()[0]} runs here ({sys.executable}); mmoid takes 3.10 to 3.12'
    return [Problem(what, f'bash {shlex.quote(str(_CHECKOUT / "tools" / "setup_env.sh"))}')]


def torch_problems() -> list[Problem]:
    """Whether torch is there, new enough and imports, and whether a torchvision beside it does."""
    version = installed_version('torch')
    if version is None and find_spec('torch') is None:
        versions = installed_stack()
        return [Problem('PyTorch is not installed', set_up_command(stack_name(versions) or 'onedl', versions))]
    if version is not None and _release(version) < _release(_TORCH):
        return [Problem(f'torch {version} is installed; mmoid takes >={_TORCH}', _pip('install', f'torch>={_TORCH}'))]
    error = _import_error('torch')
    if error:
        remedy = _pip('install', '--force-reinstall', '--no-deps', f'torch=={version}' if version else 'torch')
        return [Problem(f'torch {version or "(of unknown version)"} does not import: {error}', remedy)]
    # mmengine's collect_env imports torchvision where there is one and lets through every error but "not found":
    # no Runner can be built beside a broken one. Nothing here needs it.
    error = _import_error('torchvision') if find_spec('torchvision') else None
    if error:
        what = (
            f'torchvision {installed_version("torchvision")} does not import beside torch {version}: {error}; '
            "mmengine's Runner fails with it"
        )
        return [Problem(what, _pip('uninstall', '-y', 'torchvision'))]
    return []


def opencv_problems() -> list[Problem]:
    """Whether OpenCV imports. Its distributions share one folder, so those present have to be of one version."""
    versions = {name: version for name in _OPENCV if (version := installed_version(name))}
    if len(set(versions.values())) > 1:
        what = f'OpenCV is installed in several versions in one folder: {versions}'
        wanted = [f'{name}=={min(versions.values(), key=_release)}' for name in versions]
        return [Problem(what, _pip('install', '--force-reinstall', '--no-deps', *wanted))]
    error = _import_error('cv2') if versions else None
    if error:
        # The usual one: opencv-python wants libGL, which a machine without a screen lacks; the headless build does not.
        headless = f'opencv-python-headless=={next(iter(versions.values()))}'
        return [
            Problem(f'OpenCV does not import: {error}', _pip('install', '--force-reinstall', '--no-deps', headless))
        ]
    return []


def operator_problems() -> list[Problem]:
    """Whether mmcv has its compiled operators, and whether they load and fit the device. Imports mmcv and torch."""
    versions = installed_stack()
    stack = stack_name(versions) or 'onedl'
    distribution = STACKS[stack]['mmcv'].distribution
    mmcv, remedy = f'{distribution} {versions.get(distribution)}', set_up_command(stack, versions)
    for name, need in STACKS[stack].items():
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # no __init__.py: what uninstalling the other stack leaves behind
            return [Problem(f'{need.distribution} is registered as installed, but its files are gone', remedy)]
        folder = Path(spec.origin).parent
        if name == 'mmcv' and not any((folder / f'_ext{suffix}').is_file() for suffix in EXTENSION_SUFFIXES):
            return [Problem(f'{mmcv} was installed without its compiled operators ({folder})', remedy)]
    error = _import_error('mmcv.ops')
    if error:
        what = f'{mmcv}: the compiled operators do not load with torch {installed_version("torch")}: {error}'
        return [Problem(what, remedy)]
    torch, ops = importlib.import_module('torch'), importlib.import_module('mmcv.ops')
    if torch.cuda.is_available() and ops.get_compiling_cuda_version() == 'not available':
        what = f'{mmcv}: the operators were compiled without CUDA, but torch {torch.__version__} uses a GPU'
        return [Problem(what, remedy)]
    return []


def find_problems() -> list[Problem]:
    """Everything that is wrong with this environment, the first to mend first; empty where mmoid can run.

    Later checks are left out where an earlier one makes them meaningless.
    """
    return (
        python_problems()
        or distribution_problems(installed_stack()) + torch_problems()
        or opencv_problems()
        or operator_problems()
    )


def require_stack() -> None:
    """Returns where a usable stack is installed.

    Raises:
        ImportError: Otherwise; the message lists every problem with the command that mends it.
    """
    problems = find_problems()
    if problems:
        raise ImportError(f'mmoid cannot run in {sys.prefix}:\n{describe(problems)}')


def describe(problems: list[Problem]) -> str:
    """The problems as numbered lines, each with its remedy below; a remedy that settles several stands once."""
    lines = []
    for i, problem in enumerate(problems):
        known = problem.remedy in [earlier.remedy for earlier in problems[:i]]
        lines += [f'  {i + 1}. {problem.what}', f'     {"(the same command)" if known else problem.remedy}']
    return '\n'.join(lines)


def set_up_command(stack: str, remove: Iterable[str] = ()) -> str:
    """The command that installs ``stack`` for the Python that asks.

    In a checkout that is its set-up script, unless an environment of the user's own is active, which the script would
    leave as it is; there, and without a checkout, it is pip.

    Args:
        stack: ``'onedl'`` or ``'openmmlab'``.
        remove: The distributions that have to go first.
    """
    script, venv = _CHECKOUT / 'tools' / 'setup_env.sh', _CHECKOUT / '.venv'
    inside = Path(sys.prefix) == venv or (Path(sys.prefix) / 'mmoid-state').is_file()
    if script.is_file() and not inside and _is_bare_python() and (venv / 'bin' / 'python').exists():
        return f'source {shlex.quote(str(venv / "bin" / "activate"))}'
    if script.is_file() and (inside or _is_bare_python()):
        where = f' --venv {shlex.quote(sys.prefix)}' if inside and Path(sys.prefix) != venv else ''
        return f'bash {shlex.quote(str(script))} --stack {stack}{where}{" --remake" if inside else ""}'
    needs = STACKS[stack]
    return ' && '.join([
        *([_pip('uninstall', '-y', *remove)] if remove else []),
        # mmcv finds torch only outside of build isolation, and without it builds no operators and says nothing.
        _pip('install', f'torch>={_TORCH}', 'setuptools<80', 'wheel', 'ninja', 'psutil', 'packaging'),
        _pip('install', '--no-build-isolation', '--no-cache-dir', str(needs['mmcv']), MMCV_WITH_OPS='1'),
        _pip('install', str(needs['mmengine']), str(needs['mmdet'])),
    ])  # fmt: skip


def _is_bare_python() -> bool:
    """Whether no virtual or conda environment is active."""
    return sys.prefix == sys.base_prefix and not (Path(sys.prefix) / 'conda-meta').is_dir()


def _pip(*arguments: str, **environment: str) -> str:
    """A pip command for this very interpreter, quoted for the shell."""
    setting = [f'{name}={value}' for name, value in environment.items()]
    return ' '.join([*setting, shlex.quote(sys.executable or 'python3'), '-m', 'pip', *map(shlex.quote, arguments)])


def _release(version: str) -> tuple[int, ...]:
    """``'2.13.0+cpu'`` -> ``(2, 13, 0)``, rc and the like ignored. `packaging` may be what is missing."""
    numbers = re.match(r'\d+(\.\d+)*', version)
    return tuple(map(int, numbers[0].split('.'))) if numbers else ()


def _import_error(module: str) -> str | None:
    """Imports ``module``; the first line of what went wrong, or None."""
    try:
        importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError, a missing library OSError, mmdet AssertionError
        lines = str(error).strip().splitlines() or ['']
        return f'{type(error).__name__}: {lines[0]}'
    return None
