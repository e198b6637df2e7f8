#!/usr/bin/env bash
# Make the peers' environments for benchmarks/round.py: .venv-peers/NAME, each with pinned versions.
#
#   benchmarks/peers/make_envs.sh                 all of them
#   benchmarks/peers/make_envs.sh fedjax flower   those named
#
# Needs Python 3.11 (PYTHON311=/path/to/python3.11) and about 3 GB. The notebook's pipeline and
# fedgru's own tff engine run in .venv-tff, which `make tff` creates. What cannot be installed is
# said on stderr, and benchmarks/round.py then says in its table that the row is missing.
set -u
cd "$(dirname "$0")/../.."
PYTHON311=${PYTHON311:-python3.11}

declare -A NEEDS=(
  [fedjax]="fedjax==0.0.16 jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.16 optax==0.2.5"
  [flower]="flwr==1.41.0 ray==2.55.1 torch==2.13.0 numpy==2.4.6"
  [pfl]="pfl==0.5.0 torch==2.13.0 numpy==1.26.4"
)

failed=0
for name in "${@:-fedjax flower pfl}"; do
  for peer in $name; do
    [ -n "${NEEDS[$peer]:-}" ] || { echo "no peer $peer; known: ${!NEEDS[*]}" >&2; exit 2; }
    folder=.venv-peers/$peer
    # shellcheck disable=SC2086  # the words of NEEDS are arguments of their own
    if "$PYTHON311" -m venv --clear "$folder" &&
      "$folder/bin/python" -m pip install --quiet --disable-pip-version-check ${NEEDS[$peer]}; then
      touch "$folder/.ready"
    else
      echo "peer $peer cannot be installed: see above" >&2
      failed=1
    fi
  done
done
exit $failed
