"""templates/prometheusrule.yaml and dashboard.yaml: what deploy/monitoring has, as it stands there."""

import json
import re

import yaml

from rendering import CHART, ROOT, find, one, render

RULES = ROOT / "deploy" / "monitoring" / "rules.yaml"
DASHBOARD = ROOT / "deploy" / "monitoring" / "dashboard.json"
ON = {"monitoring": {"rules": {"enabled": True}, "dashboard": {"enabled": True}}}


def prefix():
    """The one that the chart replaces."""
    found = re.search(r'define "token-broker.runbook" -\}\}\n(\S+)\n', (CHART / "templates" / "_names.tpl").read_text())
    assert found
    return found[1]


def runbooks(groups):
    return [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule]


def test_off_by_default():
    assert not find(render(), "PrometheusRule")
    assert not find(render(), "ConfigMap", "tb-token-broker-dashboard")


def test_the_rules_are_those_of_the_repository():
    assert one(render(ON), "PrometheusRule")["spec"] == yaml.safe_load(RULES.read_text())
    assert one(render(variant="reviewed"), "PrometheusRule")["metadata"]["labels"]["release"] == "prometheus"


def test_every_runbook_begins_with_what_is_replaced():
    found = runbooks(yaml.safe_load(RULES.read_text())["groups"])
    assert found
    assert [url for url in found if not url.startswith(prefix())] == []
    told = runbooks(one(render(variant="reviewed"), "PrometheusRule")["spec"]["groups"])
    assert told == [url.replace(prefix(), "https://wiki.example.org/token-broker") for url in found]


def test_nothing_else_of_the_rules_is_replaced():
    plain = one(render(ON), "PrometheusRule")["spec"]
    other = one(render(variant="reviewed"), "PrometheusRule")["spec"]
    assert json.loads(json.dumps(plain).replace(prefix(), "https://wiki.example.org/token-broker")) == other


def test_the_dashboard_is_that_of_the_repository_and_labelled_for_the_sidecar():
    dashboard = one(render(ON), "ConfigMap", "tb-token-broker-dashboard")
    assert list(dashboard["data"]) == ["token-broker.json"]
    assert json.loads(dashboard["data"]["token-broker.json"]) == json.loads(DASHBOARD.read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    annotated = one(render(variant="reviewed"), "ConfigMap", "tb-token-broker-dashboard")
    assert annotated["metadata"]["annotations"] == {"grafana_folder": "Brokers"}


def test_there_is_one_copy_in_the_repository():
    for name, source in (("rules.yaml", RULES), ("dashboard.json", DASHBOARD)):
        link = CHART / "files" / name
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == source
