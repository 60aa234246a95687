#!/usr/bin/env bash
# The released script of this name: one GPU, any length, frames leave while it renders.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
. "$here/infra/_released_flags.sh"
released_flags "$@"
exec "${LIVEAVATAR:-$here/.venv/bin/liveavatar}" render --model live-avatar-14b --placement single \
  --enable_online_decode --size "704*384" ${OPTIONS[@]+"${OPTIONS[@]}"}
