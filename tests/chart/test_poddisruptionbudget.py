"""templates/poddisruptionbudget.yaml: evictions take one pod at a time, and a broken one never holds up a drain."""

from rendering import find, one, render


def test_one_at_a_time_and_unhealthy_ones_always():
    spec = one(render(), "PodDisruptionBudget")["spec"]
    assert spec == {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": one(render(), "Deployment")["spec"]["selector"],
    }


def test_a_part_of_them_or_none():
    assert one(render(variant="everything"), "PodDisruptionBudget")["spec"]["maxUnavailable"] == "25%"
    assert not find(render(variant="offline-keys"), "PodDisruptionBudget")
