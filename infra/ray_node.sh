#!/usr/bin/env bash
# Make this machine a node of our Ray cluster, or end that node. Another Ray on the machine is left alone: ours has a folder and a
# port of its own, and is ended by its folder (`ray stop` ends every Ray of the user).
#   infra/ray_node.sh head | worker HEAD_HOST | stop
set -euo pipefail
cd "$(dirname "$0")/.."
FOLDER=${LIVEAVATAR_RAY_FOLDER:-/tmp/liveavatar-ray}
PORT=${LIVEAVATAR_RAY_PORT:-6389}
export RAY_USAGE_STATS_ENABLED=0

ours() { pgrep -u "$(id -u)" -f -- "=$FOLDER(/|$| )" || true; }

case "${1:-}" in
  head)
    exec .venv/bin/ray start --head --port="$PORT" --temp-dir="$FOLDER" --include-dashboard=false
    ;;
  worker)
    [ -n "${2:-}" ] || { echo "ray_node.sh worker: the host of the head is missing; give it: ray_node.sh worker HEAD_HOST" >&2; exit 2; }
    exec .venv/bin/ray start --address="$2:$PORT" --temp-dir="$FOLDER"
    ;;
  stop)
    for signal in TERM KILL; do
      for process in $(ours); do kill "-$signal" "$process" 2>/dev/null || true; done
      for _ in $(seq 50); do
        [ -n "$(ours)" ] || exit 0
        sleep 0.1
      done
    done
    echo "processes of the Ray in $FOLDER do not end: $(ours | tr '\n' ' ')" >&2
    exit 1
    ;;
  *)
    echo "ray_node.sh ${1:-}: there is no such command; use head, worker HEAD_HOST, or stop" >&2
    exit 2
    ;;
esac
