# Sourced by setup_env.sh: installs mmcv with its compiled operators, from a wheel that fits or from source.
# Uses from there: root, venv, log, python, device, torch, version; attempt, run, fail, die, say, pip.

operators_load() { # prints the reason if they do not
    "$python" - "$device" 2>&1 <<'PY'
import importlib.util, pathlib, sys, sysconfig, warnings
warnings.simplefilter('ignore')  # torch remarks on numpy, which comes later
import torch
files = sorted(pathlib.Path(sysconfig.get_path('platlib'), 'mmcv').glob('_ext*'))
if not files:
    sys.exit('no compiled operators are in it')
try:
    operators = importlib.util.module_from_spec(importlib.util.spec_from_file_location('mmcv._ext', files[0]))
except ImportError as error:
    sys.exit(str(error))
if sys.argv[1] == 'cuda' and operators.get_compiling_cuda_version() == 'not available':
    sys.exit('they were compiled without CUDA')
PY
}

install_operators() { # DISTRIBUTION: mmcv, so that mmcv.ops works
    local distribution=$1 requirement reason tag cache
    requirement=$(sed -n "s/^ *'\(${distribution}[>=][^']*\)'.*/\1/p" "$root/pyproject.toml")
    [[ $requirement ]] || die "pyproject.toml does not name $distribution"
    # Wheels only, first: pip prefers a newer source release to an older wheel.
    if attempt pip install --no-deps --only-binary=:all: "$requirement"; then
        if reason=$(operators_load); then return; fi
        say "      The wheel found does not serve with torch $torch ($device): $reason"
    fi
    # pip caches wheels by source address alone, so use one cache per torch, Python and GPU.
    tag=$("$python" -c 'import sys, torch
gpus = sorted({"sm%d%d" % torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
print("-".join(["cp%d%d" % sys.version_info[:2], "torch" + torch.__version__, *gpus]))' 2>>"$log")
    cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/mmoid/$tag
    if [[ ! $(pip --cache-dir "$cache" cache list --format abspath "${distribution//-/_}" 2>>"$log") ]]; then
        say "      No wheel of $requirement fits Python $version and torch $torch ($device): compiling its operators."
        say '      That takes 10 to 20 minutes on two cores, once; the result is kept in'
        say "      $cache"
        say '      To avoid it, stop here (Ctrl-C) and name a folder that holds such a wheel:'
        say '          PIP_FIND_LINKS=/path/to/wheels bash tools/setup_env.sh'
        say "      To watch it: tail -f $log"
        can_compile
    fi
    [[ $device == cpu ]] || export FORCE_CUDA=1
    MMCV_WITH_OPS=1 run pip --cache-dir "$cache" install --no-build-isolation --no-deps --force-reinstall \
        --no-binary "$distribution" --constraint "$venv/constraints.txt" "$requirement"
    reason=$(operators_load) || fail 1 "the operators just compiled do not load: $reason"
}

can_compile() { # fails now, not after ten minutes of compiling
    command -v "${CXX:-c++}" >/dev/null ||
        fail 1 'there is no C++ compiler (Debian and Ubuntu: apt-get install build-essential)'
    "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' ||
        fail 1 "the headers of Python $version are missing (Debian and Ubuntu: apt-get install python$version-dev)"
    [[ $device == cpu ]] || "$python" -c 'import sys
from torch.utils.cpp_extension import CUDA_HOME
sys.exit(CUDA_HOME is None)' 2>>"$log" ||
        fail 1 'nvcc of the CUDA toolkit is missing (set CUDA_HOME where it is installed; MMOID_DEVICE=cpu does without)'
}
