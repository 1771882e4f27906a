#!/usr/bin/env bash
# Runs a command until it has ended well, through interruptions and crashes:
#   bash launch/keep_running.sh [--max_restarts=10] -- COMMAND...
# Status 75 of rt2_train.main (interrupted, and saved) does not count as a restart; 1 and 2 (bad
# input) end it. Everything else, a kill or a lost process of the same job, does count. (76 says the
# latter; where JAX notices first it aborts: 134.)
set -uo pipefail
left=10
case "${1:-}" in --max_restarts=*) left=${1#*=}; shift ;; esac
[[ $left =~ ^[0-9]+$ && ${1:-} = -- && $# -gt 1 ]] || {
  echo "keep_running.sh: usage: bash launch/keep_running.sh [--max_restarts=10] -- COMMAND..." >&2
  exit 2
}
shift
# Whoever stops this stops the command, and only that.
trap 'stopped=1; [ -z "${child:-}" ] || kill -TERM "$child"' TERM INT
stopped=
while :; do
  "$@" &
  child=$!
  status=0
  wait "$child" || status=$?
  # A trap ends `wait` before the command has ended.
  while kill -0 "$child" 2> /dev/null; do wait "$child" || status=$?; done
  [ -z "$stopped" ] || exit "$status"
  case $status in
    0 | 1 | 2) exit "$status" ;;
    75) echo "keep_running.sh: interrupted; starting again" >&2 ;;
    *)
      [ "$left" -gt 0 ] || {
        echo "keep_running.sh: ended with status $status, and no restart is left" >&2
        exit "$status"
      }
      left=$((left - 1))
      echo "keep_running.sh: ended with status $status; starting again, $left restarts left" >&2
      sleep 1
      ;;
  esac
done
