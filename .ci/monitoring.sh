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
