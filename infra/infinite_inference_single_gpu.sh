#!/usr/bin/env bash
# The released script of this name: one GPU, any length, frames leave while it renders. Without inputs it takes
# the sample of this repository: ./infinite_inference_single_gpu.sh --sample_steps 5 --offload_model True
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
. "$here/infra/_released_flags.sh"
released_flags "$@"
# Defaults first: a flag that is given comes after and counts.
exec "${LIVEAVATAR:-$here/.venv/bin/liveavatar}" render --model live-avatar-14b --placement single \
  ${SAMPLE[@]+"${SAMPLE[@]}"} --enable_online_decode --size "704*384" --sample_steps 4 ${OPTIONS[@]+"${OPTIONS[@]}"}
