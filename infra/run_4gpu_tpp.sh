#!/usr/bin/env bash
# The released script of this name: one job, its denoise steps spread over four GPUs. Without inputs it takes
# the sample of this repository: ./run_4gpu_tpp.sh --sample_steps 3
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
. "$here/infra/_released_flags.sh"
released_flags "$@"
# Defaults first: a flag that is given comes after and counts.
exec "${LIVEAVATAR:-$here/.venv/bin/liveavatar}" render --model live-avatar-14b --placement tpp --num_gpus 4 \
  ${SAMPLE[@]+"${SAMPLE[@]}"} --size "688*368" --num_clip 50 --sample_steps 4 ${OPTIONS[@]+"${OPTIONS[@]}"}
