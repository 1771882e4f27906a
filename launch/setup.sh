# shellcheck shell=bash
# Makes .venv and installs this checkout into it, with the exact versions of constraints.txt, for
# EXTRAS=test (default), tpu or cuda. Sourced by the other scripts. A second call installs nothing.

_python=${PYTHON:-python3.11}
command -v "$_python" >/dev/null || _python=python3
"$_python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "rt2_train needs Python 3.11 or later; $("$_python" --version) found. Set PYTHON=/path/to/python3.11" >&2
  exit 1
}
_extras=${EXTRAS:-test}
# What is installed depends on these files and on where the checkout lies.
_wanted=$(cat setup.py constraints.txt <(pwd) <(echo "$_extras") | "$_python" -c \
  'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), sys.version_info[:2])')
if [ "$(cat .venv/installed 2>/dev/null)" != "$_wanted" ]; then
  echo "Installing into .venv (about 3.5 GB; once) ..."
  "$_python" -m venv .venv
  .venv/bin/python -m pip install --disable-pip-version-check -e ".[$_extras]" -c constraints.txt
  # The tests' robot; it asks for a NumPy before 2, which it does not need.
  [[ $_extras != *test* ]] ||
    .venv/bin/python -m pip install --disable-pip-version-check --no-deps openpi-client -c constraints.txt
  echo "$_wanted" > .venv/installed
fi
# shellcheck source=/dev/null
. .venv/bin/activate
# TensorFlow only reads data here; its start-up notices would drown the progress bars.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
