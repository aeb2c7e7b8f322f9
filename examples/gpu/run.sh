#!/usr/bin/env bash
# Profile three sizes of Qwen3-shaped models of random weights on this machine's GPU: run.sh OUT [SIZES]. The profiler must be installed.
set -euo pipefail
out=$1
sizes=${2:-0.6B 4B 14B}
here=$(cd "$(dirname "$0")" && pwd)
profile="python3 -m cr2fast_profiler"
mkdir -p "$out"
$profile doctor | tee "$out/doctor.txt"
$profile selftest --meter nvml | tee "$out/selftest.txt"
port=8080
for size in $sizes; do
  $profile idle --meter nvml --seconds 15 --quiet -o "$out/idle-$size.json"
  python3 "$here/serve.py" --size "$size" --port "$port" & server=$!
  trap 'kill $server 2>/dev/null || true' EXIT
  until python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/v1/models')" 2>/dev/null; do
    kill -0 "$server" || exit 1
    sleep 1
  done
  $profile model --endpoint "http://127.0.0.1:$port" --out "$out/$size" --meter nvml --wait-s 300 --timeout-s 120 \
    --grid "64x16 64x256 512x16 512x128 2048x16 2048x256" --rounds 4-20 --budget-s "${BUDGET_S:-100}" \
    --idle-s 10 --unloaded-idle "$out/idle-$size.json" --quiet
  kill "$server"; wait "$server" 2>/dev/null || true
  port=$((port + 1))
done
