#!/usr/bin/env bash
# The whole recipe on this computer: demo data, a small VLM, co-fine-tuning, a robot that moves.
#   bash launch/local.sh                 about 18 minutes on two idle cores
#   bash launch/local.sh --ablation      adds from-scratch and fine-tune runs, under 60 minutes
#   bash launch/local.sh --plans         instructions of two steps, and a policy that says its plan, in runs/demo_plans
#   bash launch/local.sh --model=palm_e  the same with a decoder-only model, in runs/demo_palm_e
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
# The TPU compiler is installed for the tests; no TPU is looked for.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
exec python -m tools.demo "$@"
