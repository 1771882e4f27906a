#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU slice:
#   bash launch/tpu_vm.sh --name=SLICE --zone=ZONE -- --gin_file=FILE --gin.NAME=VALUE ...
# Copies this checkout (what git tracks, as it is now) into ~/rt2_train of every worker, installs it
# there and trains; an interrupted run is started again. Data and MODEL_DIR must lie on a disk that
# all workers have mounted.
#   --project=PROJECT    of the slice, where it is not gcloud's default
#   --prepare=COMMAND    comes first on every worker: mounts the disk, installs Python 3.11
#   --dry_run            only shows what would run
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/options.sh
name='' zone='' project='' prepare=''
parse_options 'name zone' 'project prepare' "$@"

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
while :; do
  status=0
  run gcloud compute tpus tpu-vm ssh "$name" "${workers[@]}" "--command=$command" || status=$?
  # rt2_train.main: interrupted, and saved.
  [ "$status" = 75 ] || exit "$status"
done
