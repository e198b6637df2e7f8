#!/usr/bin/env bash
# Make the peers' environments for benchmarks/round.py: .venv-peers/NAME, each with pinned versions.
#
#   benchmarks/peers/make_envs.sh                 all of them
#   benchmarks/peers/make_envs.sh fedjax flower   those named
#
# Needs Python 3.11 (PYTHON311=/path/to/python3.11) and about 4 GB. The notebook's pipeline and
# fedgru's own tff engine run in .venv-tff, which `make tff` creates. If something cannot be
# installed, this is printed on stderr, and benchmarks/round.py lists the row as missing.
#
# All peers get the same PyTorch. torch==2.13.0 with Python 3.11 is the CPU build where pip knows
# of one (--find-links); elsewhere pip takes the CUDA build of several GB, which computes the same.
#
# BlazeFL 3 asks for Python 3.14; no release of BlazeFL takes Python 3.11. Set
# PYTHON314=/path/to/python3.14 to install it as it is. Without that, it goes into Python 3.11, where
# the annotations of two files fail, nothing else: `for_python311` rewrites them, see there. What
# BlazeFL computes stays the same. Not tried: Python 3.14 itself, nor free-threaded Python, for which
# BlazeFL's thread pool is made. Neither PyPI nor Debian 12 has these interpreters.
set -u
cd "$(dirname "$0")/../.."
PYTHON311=${PYTHON311:-python3.11}
PYTHON314=${PYTHON314:-}

declare -A NEEDS=(
  [blazefl]="torch==2.13.0 numpy==2.4.6 tqdm==4.70.1"  # and blazefl itself: see above
  [fedjax]="fedjax==0.0.17 jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17 optax==0.2.8"
  [flower]="flwr==1.42.0 ray==2.55.1 torch==2.13.0 numpy==2.4.6"
  [pfl]="pfl==0.6.0 torch==2.13.0 numpy==2.4.6"
)
BLAZEFL=blazefl==3.0.0

install() {  # install PEER PYTHON: what the peer needs, in an environment of its own
  "$2" -m venv --clear ".venv-peers/$1" || return
  # shellcheck disable=SC2086  # the words of NEEDS are arguments of their own
  pip_install "$1" ${NEEDS[$1]}
}

pip_install() {  # pip_install PEER ARGUMENT ...
  ".venv-peers/$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"
}

install_blazefl() {
  if [ -n "$PYTHON314" ]; then
    install blazefl "$PYTHON314" && pip_install blazefl --no-deps "$BLAZEFL"
  else
    install blazefl "$PYTHON311" &&
      pip_install blazefl --no-deps --no-compile --ignore-requires-python "$BLAZEFL" &&
      for_python311
  fi
}

for_python311() {  # annotations are not evaluated; `def f[T](` becomes `def f(`
  local package=.venv-peers/blazefl/lib/python3.11/site-packages/blazefl
  local utils=$package/core/utils.py snapshot=$package/reproducibility/snapshot.py
  sed -i '1i from __future__ import annotations' $utils $snapshot &&
    sed -i -E 's/^(def [a-z_]+)\[T\]\(/\1(/' $utils &&
    .venv-peers/blazefl/bin/python -c 'import blazefl.contrib'
}

[ $# -gt 0 ] || set -- blazefl fedjax flower pfl
failed=0
for peer; do
  [ -n "${NEEDS[$peer]:-}" ] || { echo "no peer $peer; known: ${!NEEDS[*]}" >&2; exit 2; }
  if [ "$peer" = blazefl ]; then install_blazefl; else install "$peer" "$PYTHON311"; fi || {
    echo "peer $peer cannot be installed: see above" >&2
    failed=1
    continue
  }
  touch ".venv-peers/$peer/.ready"
done
exit $failed
