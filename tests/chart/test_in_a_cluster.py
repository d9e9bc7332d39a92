"""What rendering asks of the cluster: how many replicas there are, and which operators."""

import pytest
import yaml

from cluster import OPERATORS, asked, cluster, deployment
from rendering import one, refusal, render

SCALED = {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 6}}
NEEDS = {
    "monitoring.podMonitor.enabled": ({"monitoring": {"podMonitor": {"enabled": True}}}, "Prometheus Operator"),
    "monitoring.serviceMonitor.enabled": ({"monitoring": {"serviceMonitor": {"enabled": True}}}, "Prometheus Operator"),
    "monitoring.rules.enabled": ({"monitoring": {"rules": {"enabled": True}}}, "Prometheus Operator"),
    "tls.certManager.enabled": (
        {"tls": {"secretName": "", "certManager": {"enabled": True, "issuerRef": {"name": "a"}}}},
        "cert-manager",
    ),
    "credentials.externalSecrets": (
        {
            "credentials": {
                "externalSecrets": [{"name": "a", "secretStoreRef": {"name": "b"}, "dataFrom": [{"extract": {"key": "c"}}]}]
            }
        },
        "External Secrets Operator",
    ),
}


@pytest.mark.parametrize(("live", "rendered"), [(1, 3), (2, 3), (3, 3), (5, 5), (6, 6), (9, 6), (0, 3)])
def test_an_upgrade_with_an_autoscaler_leaves_as_many_replicas_as_there_are(live, rendered, tmp_path):
    with cluster(tmp_path, objects=deployment(live)) as arguments:
        done = asked(arguments, SCALED)
    assert done.returncode == 0, done.stderr
    assert one(list(yaml.safe_load_all(done.stdout)), "Deployment")["spec"]["replicas"] == rendered


def test_without_a_cluster_or_a_deployment_it_is_the_least(tmp_path):
    assert one(render(SCALED), "Deployment")["spec"]["replicas"] == 3
    with cluster(tmp_path) as arguments:
        done = asked(arguments, SCALED)
    assert one(list(yaml.safe_load_all(done.stdout)), "Deployment")["spec"]["replicas"] == 3


@pytest.mark.parametrize("value", NEEDS)
def test_an_operator_that_is_not_there_is_named_before_anything_is_changed(value, tmp_path):
    values, operator = NEEDS[value]
    with cluster(tmp_path) as arguments:
        done = asked(arguments, values)
    assert done.returncode != 0
    assert f"- {value} needs {operator}, and this cluster has no " in done.stderr
    with cluster(tmp_path, kinds=OPERATORS) as arguments:
        done = asked(arguments, values)
    assert done.returncode == 0, done.stderr


def test_rendering_without_a_cluster_takes_its_word_for_operators():
    for values, _ in NEEDS.values():
        render(values)


def test_high_availability_needs_no_operator(tmp_path):
    with cluster(tmp_path) as arguments:
        done = asked(arguments, {}, variant="ha")
    assert done.returncode == 0, done.stderr


def test_all_that_is_missing_is_told_at_once():
    assert refusal({"vault": {"timeout": "3m", "refusalHold": "0s"}}).count("which the broker refuses") == 2
