# Sourced by `.ci/run`: the checks of deploy/monitoring. They need promtool (Debian's package `prometheus`) and, in `$venv`, PyYAML.
# shellcheck shell=bash

# The alerts and the dashboard's queries are PromQL that Prometheus takes, and each alert does as its tests say.
monitoring_rules() {
  local queries
  promtool check rules --lint=all --lint-fatal deploy/monitoring/rules.yaml
  (cd deploy/monitoring && promtool test rules rules_test.yaml)
  queries=$(mktemp)
  "${venv:?}/bin/python" deploy/monitoring/check.py --dashboard-rules >"$queries"
  promtool check rules --lint=all --lint-fatal "$queries"
  rm "$queries"
}

# monitoring_names METRICS_FILE: alerts, tests, dashboard and runbook agree, and name nothing that a broker's /metrics, kept in the
# file, doesn't have.
monitoring_names() {
  "${venv:?}/bin/python" deploy/monitoring/check.py --metrics "$1"
}

# monitoring_real DIRECTORY: the same with what the broker built there shows, after a call that gets a token and one that doesn't.
monitoring_real() {
  local work address admin upstream pids=() status=0
  work=$(mktemp -d)
  read -r address admin upstream < <("${venv:?}/bin/python" -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*("127.0.0.1:%d" % one.getsockname()[1] for one in held))')
  (umask 077 && cat >"$work/broker.toml") <<END
[vault]
base_url = "http://$upstream"
[grpc]
listen = "$address"
lame_duck = "0s"
[admin]
listen = "$admin"
[[users]]
merchant_id = "bece038f-2e46-49f4-b25e-89cd38d6dc16"
number = "+447871239999"
password = "1234Qwerty"
END
  "$1/token-broker-sandbox" --listen "$upstream" >"$work/log" 2>&1 &
  pids+=($!)
  "$1/token-broker" serve --config "$work/broker.toml" >>"$work/log" 2>&1 &
  pids+=($!)
  monitoring_read "$1" "$work" "$address" "$admin" || status=$?
  if [ "$status" -ne 0 ]; then cat "$work/log"; fi
  kill "${pids[@]}"
  wait "${pids[@]}" || true
  rm -r "$work"
  return "$status"
}

monitoring_read() {
  local get=("$1/token-broker" get --endpoint "http://$3" --merchant-id bece038f-2e46-49f4-b25e-89cd38d6dc16 --number)
  local try
  for try in {1..50}; do
    if "${get[@]}" +447871239999 >/dev/null 2>&1; then break; fi
    if [ "$try" -eq 50 ]; then return 1; fi
    sleep 0.2
  done
  "${get[@]}" +447871230000 >/dev/null 2>&1 && return 1
  "${venv:?}/bin/python" -c '
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen("http://" + sys.argv[1] + "/metrics", timeout=10).read())' "$4" >"$2/metrics" &&
    promtool check metrics <"$2/metrics" &&
    monitoring_names "$2/metrics"
}
