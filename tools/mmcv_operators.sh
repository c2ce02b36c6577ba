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
    local distribution=$1 requirement reason tag cache packages work=$venv/mmcv-source
    requirement=$(sed -n "s/^ *'\(${distribution}[>=][^']*\)'.*/\1/p" "$root/pyproject.toml")
    [[ $requirement ]] || die "pyproject.toml does not name $distribution"
    # Wheels only, first: pip prefers a newer source release to an older wheel.
    if attempt pip install --no-deps --only-binary=:all: "$requirement"; then
        if reason=$(operators_load); then return; fi
        say "      The wheel found does not serve with torch $torch ($device): $reason"
    fi
    # Wheels compiled here are kept for each torch, Python, GPU and release.
    tag=$("$python" -c 'import sys, torch
gpus = sorted({"sm%d%d" % torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
print("-".join(["cp%d%d" % sys.version_info[:2], "torch" + torch.__version__, *gpus]))' 2>>"$log")
    cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/mmoid/$tag/${requirement//[^a-z0-9.]/-}
    mkdir -p "$cache" 2>>"$log" || cache=$venv/wheels
    if install_wheel; then return; fi
    say "      No wheel of $requirement fits Python $version and torch $torch ($device): compiling its operators."
    say '      That takes about 4 minutes of two cores, with CUDA longer, once; the result is kept in'
    say "      $cache"
    say "      To watch it: tail -f $log"
    can_compile
    # The other packages are downloaded meanwhile. If that fails, the next step tries again and shows why.
    pip install --constraint "$venv/constraints.txt" --editable "${root}[dev]" >/dev/null 2>&1 </dev/null &
    packages=$!
    rm -rf "$work"
    run pip download --no-build-isolation --no-deps --no-binary "$distribution" --dest "$work" "$requirement"
    [[ $device == cpu ]] || export FORCE_CUDA=1
    if ! compile united; then
        say '      That failed; compiling each file on its own: 10 to 20 minutes on two cores.'
        compile separate || fail 1 "the operators could not be compiled${reason:+, or do not load: $reason}"
    fi
    rm -rf "$work"
    wait "$packages" || true
}

install_wheel() { # installs the wheel in the cache; fails if there is none, or if its operators do not load
    local wheels=("$cache"/*.whl)
    [[ -f ${wheels[0]} ]] && attempt pip install --no-deps --force-reinstall "${wheels[0]}" && reason=$(operators_load)
}

compile() { # united|separate: makes a wheel in the cache of the source archive in $work, and installs it
    local operators=$work/$1/mmcv/ops/csrc/pytorch file
    mkdir "$work/$1"
    attempt tar -xzf "$work"/*.tar.gz -C "$work/$1" --strip-components 1 || return 1
    if [[ $1 == united ]]; then
        # Some 58 small files, which spend their time on PyTorch's headers. Those in cpu/ cannot be united: they define
        # macros of the same names.
        mkdir "$operators/parts"
        mv "$operators"/*.cpp "$operators/parts" || return 1
        for file in "$operators"/parts/*.cpp; do
            printf '#include "parts/%s"\n' "${file##*/}"
        done >"$operators/all_operators.cpp"
    fi
    rm -f "$cache"/*.whl
    # -g0: without debug information a file takes half the time.
    MMCV_WITH_OPS=1 CFLAGS="${CFLAGS-} -g0" CXXFLAGS="${CXXFLAGS-} -g0" \
        attempt pip wheel --no-build-isolation --no-deps --wheel-dir "$cache" "$work/$1" && install_wheel
}

can_compile() { # fails now, not after minutes of compiling
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
