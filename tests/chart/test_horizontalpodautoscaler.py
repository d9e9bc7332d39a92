"""templates/horizontalpodautoscaler.yaml: off unless it is asked for."""

from rendering import find, one, render


def test_off_by_default():
    assert not find(render(), "HorizontalPodAutoscaler")
    assert not find(render(variant="ha"), "HorizontalPodAutoscaler")


def test_three_replicas_become_nine_once_it_is_asked_for():
    spec = one(render({"autoscaling": {"enabled": True}}, "ha"), "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 9)


def test_scales_the_deployment_by_cpu_and_down_slowly():
    documents = render(variant="everything")
    spec = one(documents, "HorizontalPodAutoscaler")["spec"]
    target = one(documents, "Deployment")
    assert spec["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": "Deployment",
        "name": target["metadata"]["name"],
    }
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 4)
    assert spec["metrics"] == [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    ]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
