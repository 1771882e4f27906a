#!/usr/bin/env bash
# The whole recipe on this computer: demo data, a small VLM, co-fine-tuning, a robot that moves.
#   bash launch/local.sh                 under 20 minutes on two cores
#   bash launch/local.sh --ablation      adds from-scratch and fine-tune runs, under 60 minutes
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
exec python -m tools.demo "$@"
