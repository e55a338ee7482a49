#!/usr/bin/env bash
# All that needs a card, in one call of under eight minutes, the most important lines first:
#
#     bash benchmarks/on_gpu.sh [FOLDER]
#
# Writes FOLDER/steps.jsonl (our step twice, for equal bits; twice with FP8; whole captions;
# open_clip; the largest batch), FOLDER/encode.jsonl (pictures to features), FOLDER/kernels.jsonl
# (each kernel alone) and FOLDER/summary.json.
# PICTURES=FILE names pictures made elsewhere by `step_inputs.py --pictures`, for a machine without
# tensorflow_datasets; WHEELS=FOLDER holds packages that it lacks. Without open_clip and torch, its
# row says so.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-gpu-results}
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    python -m pip install --quiet --no-deps --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$site:${PYTHONPATH:-}"
fi
export PYTHONPATH="$here/..:${PYTHONPATH:-}"
python "$here/train_step.py" --one-call --json --lines "$out/steps.jsonl" \
    ${PICTURES:+--pictures "$PICTURES"} >"$out/summary.json"
python "$here/encode.py" --precision bfloat16 --lines "$out/encode.jsonl" >/dev/null
python "$here/gpu_kernels.py" >"$out/kernels.jsonl"
