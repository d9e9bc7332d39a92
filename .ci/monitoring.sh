# Sourced by the recipes of the justfile: the checks of deploy/monitoring. They need promtool and Prometheus (Debian's package `prometheus`), openssl,
# and, in `$venv`, PyYAML and grpcio.
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

# Each alert fires and resolves, with the broker and the sandbox that were built: some 80 s. Alerts, tests, dashboard and
# runbook agree, and name nothing that the brokers did not show meanwhile.
monitoring_alerts() {
  "${venv:?}/bin/python" tests/monitoring/run.py
}
