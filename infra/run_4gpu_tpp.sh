#!/usr/bin/env bash
# The released script of this name: one job, its denoise steps spread over four GPUs.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
. "$here/infra/_released_flags.sh"
released_flags "$@"
exec "${LIVEAVATAR:-$here/.venv/bin/liveavatar}" render --model live-avatar-14b --placement tpp --num_gpus 4 \
  --size "688*368" --num_clip 50 ${OPTIONS[@]+"${OPTIONS[@]}"}
