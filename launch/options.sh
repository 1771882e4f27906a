# shellcheck shell=bash
# Sourced by the scripts that start a job elsewhere: reads their options, shows and runs commands.

# Ends the script with one line.
fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# parse_options "NAMES" "NAMES" "$@": the first names must be given as --NAME=VALUE, the others may;
# each becomes a variable. With --dry_run, `run` runs nothing. What follows -- goes to `train_with`.
parse_options() {
  local required=$1 optional=$2 option
  shift 2
  dry_run=
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    option=${1%%=*}
    option=${option#--}
    case " $required $optional " in
      *" $option "*)
        [ "$1" != "--$option" ] && [ -n "${1#*=}" ] || fail "$1 has no value; write --$option=VALUE"
        printf -v "$option" '%s' "${1#*=}"
        ;;
      *)
        [ "$1" = --dry_run ] || fail "unknown option $1; there are --${required// / --}" \
          "--${optional// / --} --dry_run, and after -- those of rt2_train.main"
        dry_run=1
        ;;
    esac
    shift
  done
  for option in $required; do
    [ -n "${!option:-}" ] || fail "--$option=VALUE is missing"
  done
  [ $# -gt 0 ] || fail 'end with -- --gin_file=FILE and what else rt2_train.main takes'
  train_with "${@:2}"
}

# train_with "$@": the array `training` becomes the command with these arguments of rt2_train.main.
train_with() {
  [ $# -gt 0 ] || fail 'rt2_train.main needs arguments, such as --gin_file=FILE'
  # shellcheck disable=SC2034  # For the script that sources this.
  training=(python -m rt2_train.main --run_mode=train --distributed=auto "$@")
}

# The arguments as one line, which a shell reads as these arguments.
quoted() {
  "${PYTHON:-python3}" -c 'import shlex, sys; print(shlex.join(sys.argv[1:]))' "$@"
}

# Shows a command and, unless this is a dry run, runs it.
run() {
  quoted "$@"
  [ -n "$dry_run" ] || "$@"
}
