"""As much of an API server as rendering asks: which kinds there are, and single objects. No cluster can be had in CI."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rendering import CHART, NAMESPACE, VARIANTS, helm

OWN = {
    "v1": ["Secret", "ConfigMap", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "policy/v1": ["PodDisruptionBudget"],
}
OPERATORS = {
    "monitoring.coreos.com/v1": ["PodMonitor", "ServiceMonitor", "PrometheusRule"],
    "cert-manager.io/v1": ["Certificate"],
    "external-secrets.io/v1": ["ExternalSecret"],
}


def answer(path, kinds, objects):
    """The JSON for a path, if there is any."""
    groups = [version for version in kinds if "/" in version]
    fixed = {
        "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "groups": [
                {"name": version.partition("/")[0], "versions": [listed], "preferredVersion": listed}
                for version in groups
                for listed in [{"groupVersion": version, "version": version.partition("/")[2]}]
            ],
        },
    }
    for version, names in kinds.items():
        resources = [{"name": f"{name.lower()}s", "kind": name, "namespaced": True, "verbs": ["get"]} for name in names]
        where = f"/apis/{version}" if "/" in version else f"/api/{version}"
        fixed[where] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    return fixed.get(path) or objects.get(path)


@contextmanager
def cluster(directory, kinds=None, objects=None):
    """A server for as long as it lasts; yields the arguments by which helm asks it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = answer(self.path.partition("?")[0], OWN | (kinds or {}), objects or {})
            body = json.dumps(found or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = {"cluster": "c", "user": "u"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path = directory / "kubeconfig"
    path.write_text(json.dumps(config))
    try:
        yield ("--kubeconfig", path, "--dry-run=server", "--disable-openapi-validation")
    finally:
        server.shutdown()
        server.server_close()


def asked(arguments, values, variant="service-accounts"):
    """What rendering comes to in that cluster."""
    return helm("template", "tb", CHART, "--namespace", NAMESPACE, *arguments, files=VARIANTS[variant], values=values)


def deployment(replicas):
    """The live Deployment of the release, by its path."""
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/tb-token-broker"
    owned = {"meta.helm.sh/release-name": "tb", "meta.helm.sh/release-namespace": NAMESPACE}
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    metadata = {"name": "tb-token-broker", "namespace": NAMESPACE, "labels": labels, "annotations": owned}
    return {path: {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}}}
