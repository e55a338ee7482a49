#!/usr/bin/env bash
# From nothing to a trained, evaluated and exported model with a report, on simulated organisms:
#   bash launch/quickstart.sh [WORKDIR]
# Run it again and it goes on where it stopped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workdir="$(absolute "${1:-runs/quickstart}")"
mkdir -p "$workdir" 2>/dev/null || fail "cannot make the folder $workdir"
use_environment

SECONDS=0
step() { printf '== %3ds  %s\n' "$SECONDS" "$*"; }

step "growing a tree of life: $workdir/data"
[ -f "$workdir/data/features.json" ] || bioclip2 prepare simulate --out "$workdir/data"

step "training: $workdir"
bioclip2 train --config=configs/quickstart.py --config.data.dir="$workdir/data" \
  --workdir="$workdir"

step "evaluating on held-out pictures: $workdir/eval"
bioclip2 evaluate --workdir "$workdir" --data "$workdir/data" --split val

step "exporting for PyTorch: $workdir/export"
bioclip2 export --workdir "$workdir" --out "$workdir/export" --overwrite

step "naming new pictures: $workdir/predictions.csv"
bioclip2 inspect --data "$workdir/data" --split test --extract 8 --out "$workdir/pictures" >/dev/null
bioclip2 predict "$workdir/pictures" --model "$workdir/export" --taxa "$workdir/data/taxa.csv" \
  --k 3 --output "$workdir/predictions.csv"

step "writing the report"
bioclip2 report --workdir "$workdir" --data "$workdir/data" --out "$workdir/report.html"
step "done; open $workdir/report.html"
