#!/usr/bin/env bash
# Creates the environment .venv in the root of the checkout: mmoid, one of the two MMDetection stacks, the development
# tools.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: bash tools/setup_env.sh [--stack onedl|openmmlab] [--venv FOLDER] [--remake]

Creates .venv in the root of this checkout, or returns at once if it is up to date.

  --stack onedl      the maintained forks (onedl-mmdetection and so on); the default
  --stack openmmlab  the originals (mmdet 3.3, mmcv 2.1, mmengine 0.10)
                     Without --stack an existing .venv keeps the stack it has.
  --venv FOLDER      another folder than .venv, for example for a second stack
  --remake           delete the existing .venv first

Environment:
  PYTHON          the Python to use, 3.10 to 3.12. Otherwise python3.11, python3.12, python3.10 or python3.
  MMOID_DEVICE    cpu or cuda. Otherwise an existing .venv stays what it is, and a new one is for cuda where
                  `nvidia-smi -L` succeeds.
  MMOID_TORCH     the version of PyTorch. Otherwise 2.13.0, with which both stacks are tested.
  PIP_FIND_LINKS  folders with prebuilt wheels, as pip takes it. A wheel of mmcv in one of them saves minutes of
                  compiling.
TEXT
}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv

say() { printf '%s\n' "$*"; }
die() {
    printf 'setup_env.sh: %s\n' "$*" >&2
    exit 1
}

stack='' remake=no
while (($# > 0)); do
    case $1 in
        --stack=* | --venv=*)
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
            continue
            ;;
        --stack)
            [[ ${2-} ]] || die '--stack needs a name: onedl or openmmlab'
            stack=$2
            shift
            ;;
        --venv)
            [[ ${2-} ]] || die '--venv needs a folder'
            venv=$(readlink -m -- "$2")
            shift
            ;;
        --remake) remake=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "unknown argument '$1'; --help lists what there is" ;;
    esac
    shift
done

name=${venv#"$root"/}
python=$venv/bin/python
state=$venv/mmoid-state # the settings of this .venv; written first
busy=$venv/mmoid-busy   # exists while pip may be in the middle of a package
stamp=$venv/mmoid-stamp # the settings of a complete .venv; written last
log=$venv/setup.log

# --- Settings; is the environment up to date? ------------------------------------------------------------------------

recorded() { # NAME: prints a setting of the existing .venv
    [[ ! -f $state ]] || sed -n "s/^$1=//p" "$state"
}

python_version() { # PROGRAM: prints its version, as 3.11; fails unless it can create the environment
    # pyenv has shims for inactive versions, and Debian's python3 comes without ensurepip.
    "$1" -c 'import sys, venv, ensurepip
print("%d.%d" % sys.version_info[:2])
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

stack=${stack:-$(recorded stack)}
stack=${stack:-onedl}
[[ $stack == onedl || $stack == openmmlab ]] || die "--stack is onedl or openmmlab, not '$stack'"

# An existing .venv keeps its device: nodes with and without a GPU may share it.
device=${MMOID_DEVICE-}
if [[ ! $device && $remake == no ]]; then device=$(recorded device); fi
if [[ ! $device ]]; then
    device=cpu
    if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then device=cuda; fi
fi
[[ $device == cpu || $device == cuda ]] || die "MMOID_DEVICE is cpu or cuda, not '$device'"

torch=${MMOID_TORCH:-2.13.0}
[[ $torch =~ ^[0-9]+(\.[0-9]+)+$ ]] || die "MMOID_TORCH is a version such as 2.13.0, not '$torch'"

if [[ ${PYTHON-} ]]; then
    version=$(python_version "$PYTHON") ||
        die "PYTHON=$PYTHON does not run, is not Python 3.10 to 3.12, or lacks the modules venv and ensurepip"
else
    version=$(recorded python)
fi

wanted() { # settings that need a new .venv if they change; also the root, because environments cannot be moved
    printf 'root=%s\nstack=%s\npython=%s\ndevice=%s\ntorch=%s\n' "$root" "$stack" "$version" "$device" "$torch"
}
key() {
    wanted
    cksum <"$root/pyproject.toml"
    cksum <"$root/tools/setup_env.sh"
    cksum <"$root/tools/mmcv_operators.sh"
}
works() { [[ -x $python ]] && "$python" -c '' 2>/dev/null; } # not after its Python was removed
exit_if_up_to_date() {
    [[ $remake == no && -f $stamp && $(<"$stamp") == "$(key)" ]] && works || return 0
    say "$name is up to date ($stack, Python $version, torch $torch, $device)"
    exit 0
}

exit_if_up_to_date

# --- One run at a time. Child processes of a killed run keep the lock, so the next run waits for them ------------------

{ mkdir -p "$(dirname "$venv")" && : >>"$venv.lock" && [[ ! -d $venv || -w $venv ]]; } 2>/dev/null ||
    die "$(dirname "$venv") is not a writable directory; --venv FOLDER makes the environment elsewhere"
exec 9>"$venv.lock"
if command -v flock >/dev/null && ! flock -n 9; then
    say "Another setup_env.sh is running for $name; waiting until it ends."
    flock 9
    if [[ ! ${PYTHON-} ]]; then version=$(recorded python); fi
    exit_if_up_to_date
fi

# --- Helpers ---------------------------------------------------------------------------------------------------------

steps=6 step=0
begin() {
    step=$((step + 1))
    say "[$step/$steps] $*"
}

attempt() { # COMMAND...: runs it with its output in the log; returns its status
    printf '\n$ %s\n' "$*" >>"$log"
    # In a subshell, so that the message of the trap below does not go into the log.
    ("$@") >>"$log" 2>&1 </dev/null
}

run() { # COMMAND...: the same, but ends the script if it fails
    local status=0
    attempt "$@" || status=$?
    ((status == 0)) || fail "$status" "$*"
}

fail() { # STATUS WHAT
    # A pip that was killed (status above 128) may leave incomplete packages.
    (($1 > 128)) || rm -f "$busy"
    {
        printf '\nsetup_env.sh: failed with status %s: %s\n' "$1" "$2"
        explain
        say 'The last lines of the log:'
        tail -n 25 "$log" | sed 's/^/    /'
        say "The whole log: $log"
        say 'Solve the problem and run the same command again; it continues from here.'
    } >&2
    exit 1
}
explain() { # names the cause if the log shows a well-known one
    local last
    last=$(tail -n 40 "$log")
    case $last in
        *NewConnectionError* | *'Name or service not known'* | *'Temporary failure in name resolution'* | *ProxyError* | \
            *ConnectTimeoutError* | *ReadTimeoutError*)
            say 'error: pip cannot reach the package index. Check the network and `pip config list`.' ;;
        *'No space left on device'*) say "error: the disk is full: $(df -h "$venv" | tail -n 1)" ;;
    esac
}
trap 'printf "\nsetup_env.sh: interrupted; the same command starts again.\n" >&2; exit 130' INT

pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }

# --- Steps -----------------------------------------------------------------------------------------------------------

. "$root/tools/mmcv_operators.sh" # install_operators

make_venv() {
    local interpreter=${PYTHON-} candidate
    if [[ ! $interpreter ]]; then
        for candidate in "python${version:-3.11}" python3.11 python3.12 python3.10 python3; do
            if version=$(python_version "$candidate"); then
                interpreter=$candidate
                break
            fi
        done
        [[ $interpreter ]] || die 'no Python 3.10 to 3.12 with the modules venv and ensurepip was found
(tried python3.11, python3.12, python3.10 and python3). Install one, or name it: PYTHON=/path/to/python3.11 bash tools/setup_env.sh'
    fi
    begin "Python $version environment in $venv"
    mkdir -p "$venv"
    touch "$busy"
    # Keep these two files, so that a run killed here is recognised.
    find "$venv/" -mindepth 1 -maxdepth 1 ! -name mmoid-state ! -name mmoid-busy -exec rm -rf -- {} +
    wanted >"$state"
    run "$interpreter" -m venv "$venv"
}

install_torch() {
    local spec=torch==$torch
    if [[ $device == cuda ]]; then
        # A CPU wheel in a find-links folder would win otherwise: 2.13.0+cpu sorts above 2.13.0.
        spec+=,!=$torch+cpu
    elif [[ $(uname -s) == Linux ]]; then
        # PyPI's build for Linux brings gigabytes of CUDA. The one without: from a folder that PIP_FIND_LINKS or pip's
        # configuration names (the variable hides the configuration's), else from PyTorch's own index.
        spec+=+cpu
        attempt pip install --no-index --no-deps "$spec" ||
            attempt env -u PIP_FIND_LINKS "$python" -m pip install --no-index --no-deps "$spec" ||
            attempt pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$spec" ||
            fail 1 "no $spec for Python $version, neither in PIP_FIND_LINKS nor from download.pytorch.org"
    fi
    run pip install "$spec"
    # Keep this torch from now on: the operators are compiled against it.
    printf 'torch==%s\n' "$("$python" -c 'import torch; print(torch.__version__)' 2>>"$log")" >"$venv/constraints.txt"
}

mend_opencv() { # opencv-python needs libGL, which a machine without a screen may lack; the headless build does not
    local opencv
    if attempt "$python" -c 'import cv2'; then return; fi
    opencv=$("$python" -c 'import importlib.metadata as m; print(m.version("opencv-python"))' 2>>"$log") || return 0
    say "      OpenCV does not import on this machine; installing its headless build $opencv over it."
    run pip install --no-deps --force-reinstall "opencv-python-headless==$opencv"
}

# --- Work ------------------------------------------------------------------------------------------------------------

if [[ -e $venv && ! -f $state && $(ls -A "$venv") ]]; then
    die "$venv exists, but this script did not create it. To move it away: mv '$venv' '$venv.old'"
fi
owner=$(recorded root)
if [[ $owner && $owner != "$root" && -e $owner/tools/setup_env.sh && $(readlink -f "$venv") != "$root"/* ]]; then
    die "$venv belongs to the checkout $owner; --venv FOLDER makes one for this checkout"
fi
if [[ $remake == no && -f $state && $(<"$state") == "$(wanted)" && ! -e $busy ]] && works; then
    begin "Python $version environment in $venv (there already)"
else
    make_venv
fi
rm -f "$stamp"
touch "$busy"
printf '\n=== %s, %s\n' "$(date)" "$(wanted | tr '\n' ' ')" >>"$log"

begin 'Build tools'
# pip: before 23.1 it does not keep what `--no-binary` makes it build. setuptools: mmcv 2.1 does not build with 80; torch
# asks for 77.0.3. The rest is what the builds of mmcv import.
run pip install 'pip>=23.1' 'setuptools>=77.0.3,<80' wheel ninja psutil packaging

begin "PyTorch $torch ($device)"
install_torch

if [[ $stack == onedl ]]; then mmcv=onedl-mmcv; else mmcv=mmcv; fi
begin "$mmcv with its compiled operators"
install_operators "$mmcv"

begin "mmoid[$stack,dev] and what it needs"
run pip install --constraint "$venv/constraints.txt" --editable "${root}[$stack,dev]"
mend_opencv

begin 'Check'
if ! "$python" "$root/tools/misc/check_env.py"; then
    rm -f "$busy"
    die 'the environment has the problems above'
fi
rm -f "$busy"
key >"$stamp"
say "Ready after $SECONDS s: source $name/bin/activate"
