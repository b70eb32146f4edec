#!/usr/bin/env bash
# bash cuda/check.sh FOLDER
#
# Builds resmem for this machine's GPU, holds its results against the CPU's, and times it, within
# 480 s. Logs and figures come to FOLDER, and a table of all steps is printed last. A step that fails
# is told, and the others go on. Without a GPU the same is done with the emulation, on tiny shapes.
#
# RESMEM_PYTHON names an interpreter with NumPy, pybind11, pytest, hypothesis, and PyTorch for the
# timings. Without it pip brings all but PyTorch to a new virtual environment.
set -uo pipefail
if [ $# -ne 1 ]; then
  echo "usage: bash cuda/check.sh FOLDER" >&2
  exit 2
fi
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.."

allowed=470 # seconds for everything, as what is stopped may take some more to end
kept_back=130 # of them, for what comes after the timings
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export out work
rm -f "$out"/{environment,build,self_test,tests,timings,slabs,loop,memcheck,racecheck}.log \
  "$out"/{timings.json,summary.txt} # of an earlier run
rows=()
failed=0

left() { echo $((allowed - SECONDS)); }
note() { # STEP OUTCOME
  rows+=("$(printf '%-12s %4d s  %s' "$1" "$SECONDS" "$2")")
  echo "--- $1: $2"
}
step() { # NAME SECONDS COMMAND...: runs it, writes NAME.log, and notes what came of it
  local name=$1 limit=$2 status=0
  shift 2
  if [ "$limit" -gt "$(left)" ]; then limit=$(left); fi
  if [ "$limit" -lt 5 ]; then
    note "$name" "left out: no time is left"
    return 1
  fi
  timeout -k 5 "$limit" "$@" > "$out/$name.log" 2>&1 || status=$?
  if [ "$status" -eq 0 ]; then
    note "$name" "passed: $(grep -v '^ *$' "$out/$name.log" | tail -n 1 | cut -c 1-120)"
    return
  fi
  failed=1
  if [ "$status" -eq 124 ]; then
    note "$name" "FAILED: it was stopped after $limit s"
  else
    note "$name" "FAILED: $(grep -v '^ *$' "$out/$name.log" | tail -n 1 | cut -c 1-120)"
  fi
  return 1
}

# ---- the steps ------------------------------------------------------------------------------------

environment() { # makes the virtual environment
  python3 -m venv --system-site-packages "$work/venv" &&
    "$work/venv/bin/pip" -q install --retries 1 --timeout 10 numpy pybind11 pytest pytest-xdist \
      hypothesis cmake ninja && echo "virtual environment with pip's packages"
}
build() { # the package with the extensions of this machine
  local generator=()
  if command -v ninja > /dev/null; then generator=(-G Ninja); fi
  cmake "${generator[@]}" -S . -B "$work/build" -DSKBUILD_PROJECT_VERSION=0.0.0 \
    -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" "$@" &&
    cmake --build "$work/build" --parallel "$(nproc)" &&
    cp -r python/resmem "$work/site/" && rm -f "$work"/site/resmem/*.so &&
    cp "$work"/build/_c*.so "$work/site/resmem/" && echo "built: $*"
}
contract() { # the tests of the contract, on the device
  local processes=()
  if "$python" -c "import xdist" 2> /dev/null; then processes=(-p xdist -n 4); fi
  # What else is installed there may warn, which is an error here.
  PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 RESMEM_TEST_DEVICE=$device "$python" -m pytest -q \
    -p no:cacheprovider "${processes[@]}" tests/test_cuda_search.py tests/test_cuda_aggregate.py \
    tests/test_device_search.py tests/test_device_visibility.py tests/test_device_correct.py
}
timings() { # SECONDS OPTIONS...
  "$python" benchmarks/bench_cuda.py --device "$device" --json "$out/timings.json" --seconds "$@"
}
export -f environment build contract timings

# ---- the machine ----------------------------------------------------------------------------------

if ! command -v nvcc > /dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
  PATH=$PATH:/usr/local/cuda/bin
fi
gpu=$(nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader -i 0 2> /dev/null)
echo "commit: $(git rev-parse HEAD 2> /dev/null || echo unknown)"
echo "GPU: ${gpu:-none: the emulation takes its place, and nothing is timed on a device}"
echo "nvcc: $(nvcc --version 2> /dev/null | grep release || echo none)"
if [ -n "$gpu" ]; then
  device=cuda:0 self_test=() tests=150 shapes=()
  capability=${gpu##*, }
  options=(-DRESMEM_CUDA=on "-DRESMEM_CUDA_ARCHITECTURES=${capability//./}-real")
else
  device=cuda:emulated self_test=(--quick) tests=300 shapes=(--tiny)
  options=(-DRESMEM_CUDA=off -DRESMEM_CUDA_EMULATION=ON)
fi
python=${RESMEM_PYTHON:-}
if [ -z "$python" ]; then
  python=python3
  if step environment 120 bash -c environment; then
    python=$work/venv/bin/python
    PATH=$work/venv/bin:$PATH
  else
    failed=0
    echo "pip did not bring what is needed, so that python3 is used as it is"
  fi
fi
echo "Python: $("$python" -c 'import sys; print(sys.version.split()[0], sys.executable)')"
mkdir "$work/site"
export python device PATH PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# ---- what is run ----------------------------------------------------------------------------------

if step build 330 bash -c 'build "$@"' build "${options[@]}"; then
  step self_test 90 "$python" tests/device_check.py --device "$device" "${self_test[@]}"
  step tests "$tests" bash -c contract
  seconds=$(($(left) - kept_back))
  step timings "$seconds" bash -c 'timings "$@"' timings $((seconds - 10)) "${shapes[@]}"
  step slabs 60 "$python" benchmarks/device_slabs.py --device "$device" "${shapes[@]}"
  step loop 40 "$python" benchmarks/device_loop.py --device "$device"
  for tool in memcheck racecheck; do
    if [ -z "$gpu" ]; then
      note "$tool" "left out: there is no GPU"
    elif ! command -v compute-sanitizer > /dev/null; then
      note "$tool" "left out: there is no compute-sanitizer"
    else
      step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$python" tests/device_check.py --device "$device" --quick
    fi
  done
else
  note "all others" "left out: there is nothing to run"
fi

{
  if [ -f "$out/timings.log" ]; then cat "$out/timings.log"; fi
  printf '\n%-12s %6s  %s\n' step "ended" outcome
  printf '%s\n' "${rows[@]}"
  if [ -z "$gpu" ]; then echo "There is no GPU here: nothing was timed on a device."; fi
} | tee "$out/summary.txt"
exit "$failed"
