#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster that has JobSet installed (kubectl's current context):
#   bash launch/gke.sh --name=NAME --image=IMAGE --accelerator=tpu-v5p-slice --topology=4x4x4 \
#     --claim=CLAIM -- --gin_file=FILE --gin.MODEL_DIR="'/data/runs/NAME'" ...
# Fills in launch/gke.yaml, which says what these are, and creates it.
#   --slices=1 --chips_per_host=4 --max_restarts=10 --namespace=default
#   --dry_run            only shows what would run
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/options.sh
name='' image='' accelerator='' topology='' claim=''
slices=1 chips_per_host=4 max_restarts=10 namespace=default
parse_options 'name image accelerator topology claim' \
  'slices chips_per_host max_restarts namespace' "$@"

[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology=$topology is not like 4x4x4"
for option in slices chips_per_host; do
  [[ ${!option} =~ ^[1-9][0-9]*$ ]] || fail "--$option=${!option} is not a number from 1"
done
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max_restarts=$max_restarts is not a number"
chips=$((${topology//x/*}))
# A slice smaller than a host is one host.
[ "$chips" -ge "$chips_per_host" ] || chips_per_host=$chips
[ $((chips % chips_per_host)) = 0 ] ||
  fail "--topology=$topology has $chips chips, which are no hosts of" \
    "--chips_per_host=$chips_per_host"

manifest=$("${PYTHON:-python3}" - SLICES="$slices" CHIPS="$chips_per_host" \
  HOSTS=$((chips / chips_per_host)) MAX_RESTARTS="$max_restarts" \
  NAME="$name" IMAGE="$image" ACCELERATOR="$accelerator" TOPOLOGY="$topology" CLAIM="$claim" \
  COMMAND "${training[@]}" << 'END'
import json, string, sys
split = sys.argv.index('COMMAND')
values = dict(argument.split('=', 1) for argument in sys.argv[1:split])
# JSON is YAML: no value is taken for anything but text, or a number where it is one.
values = {name: value if value.isdigit() else json.dumps(value) for name, value in values.items()}
values['COMMAND'] = json.dumps(sys.argv[split + 1:])
with open('launch/gke.yaml', encoding='utf-8') as file:
  _, start, text = file.read().partition('apiVersion:')
print(string.Template(start + text).substitute(values))
END
)
echo "kubectl create --namespace=$namespace -f - <<'END'
$manifest
END"
[ -n "$dry_run" ] || kubectl create "--namespace=$namespace" -f - <<< "$manifest"
