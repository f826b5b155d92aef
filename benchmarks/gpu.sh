#!/usr/bin/env bash
# What a GPU has to show, in at most 8 minutes on one H100 or H200, in order of importance:
#
#   benchmarks/gpu.sh                 # with the package and its extras test and train installed
#   benchmarks/gpu.sh --rehearse      # the same parts on a CPU: Triton's interpreter, tiny shapes
#
# (a) errors of the Triton kernels against PyTorch, (b) their speed and roofline against nn.Conv2d, (c) images/s
# of RepLKNet-31B before and after `accelerate`, (d) `heatbox evaluate` from files to scores, (e) pytest -m gpu.
# Each part prints as it goes, so that a cut loses only the rest. A part that exceeds its time is stopped, and
# the others run. The exit code is 1 if a part failed or was stopped.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
failed=""

part() {  # part NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  echo "== $name"
  timeout "$limit" "$@"
  status=$?
  [ $status -eq 124 ] && echo "stopped after $limit seconds"
  [ $status -ne 0 ] && failed="$failed $name"
  echo "-- $name: exit code $status, $((SECONDS - start)) s"
}

if [ "${1:-}" = --rehearse ]; then
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  tiny="--sizes 32 --threads 1"
  part errors 120 env TRITON_INTERPRET=1 "$python" benchmarks/gpu.py right --rehearse
  part kernels 120 "$python" benchmarks/depthwise.py $tiny --batches 2 --models replknet --seconds 0 --peak 0.05 --bandwidth 0.01
  part inference 120 "$python" benchmarks/backbones.py $tiny --batch 2 --models replknet_nano --turns 1 --skip-training
  part training 120 "$python" benchmarks/backbones.py $tiny --batch 2 --models replknet_nano --turns 1 --skip-inference
  part evaluate 120 "$python" benchmarks/gpu.py evaluate --rehearse
  part tests 120 "$python" -m pytest -q -m gpu tests/ops
elif [ $# -eq 0 ]; then
  gpu="--device cuda --dtype bfloat16 --sizes 384"
  part errors 100 "$python" benchmarks/gpu.py right
  part kernels 120 "$python" benchmarks/depthwise.py $gpu --batches 64 --models replknet --seconds 0.3 --peak 989 --bandwidth 4.8
  part inference 70 "$python" benchmarks/backbones.py $gpu --batch 64 --turns 3 --skip-training
  part training 70 "$python" benchmarks/backbones.py $gpu --batch 16 --turns 2 --skip-inference
  part evaluate 60 "$python" benchmarks/gpu.py evaluate
  part tests 60 "$python" -m pytest -q -m gpu tests/ops
else
  echo "usage: benchmarks/gpu.sh [--rehearse]" >&2
  exit 2
fi
[ -z "$failed" ] && echo "all parts done in $SECONDS s" || { echo "failed:$failed; $SECONDS s"; exit 1; }
