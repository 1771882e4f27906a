#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU slice:
#   bash launch/tpu_vm.sh --name=SLICE --zone=ZONE -- --gin_file=FILE --gin.NAME=VALUE ...
# Copies this checkout (what git tracks, as it is now) into ~/rt2_train of every worker, installs it
# there and trains; a run that was interrupted, or has crashed, is started again (keep_running.sh).
# Data and MODEL_DIR must lie on a disk that all workers have mounted.
#   --project=PROJECT    of the slice, where it is not gcloud's default
#   --prepare=COMMAND    comes first on every worker: mounts the disk, installs Python 3.11
#   --max_restarts=10    after crashes; those after interruptions are not counted
#   --dry_run            only shows what would run
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/options.sh
name='' zone='' project='' prepare='' max_restarts=10
parse_options 'name zone' 'project prepare max_restarts' "$@"

archive=runs/rt2_train.tar.gz
workers=("--zone=$zone" --worker=all)
[ -z "$project" ] || workers+=("--project=$project")
command="${prepare:+$prepare && }mkdir -p rt2_train && tar -xzf ${archive##*/} -C rt2_train"
command+=" && cd rt2_train && EXTRAS=tpu && . launch/setup.sh"
# With JAX_PLATFORMS a TPU that is not found is an error, and no reason to train on a CPU.
command+=" && JAX_PLATFORMS=tpu,cpu exec $(quoted "${training[@]}")"

run mkdir -p runs
run bash -c "git ls-files -z | tar --null -czf $archive -T -"
run gcloud compute tpus tpu-vm scp "$archive" "$name:" "${workers[@]}"
run bash launch/keep_running.sh "--max_restarts=$max_restarts" -- \
  gcloud compute tpus tpu-vm ssh "$name" "${workers[@]}" "--command=$command"
