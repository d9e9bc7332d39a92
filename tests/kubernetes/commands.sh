#!/usr/bin/env bash
# The commands of the documents against a real Kubernetes API server: `bash tests/kubernetes/commands.sh`, in the order of the pages.
# docs/commands.md says of each where it was tried.
#
# No node runs anything here, and the server is of version 1.20: what it doesn't know is taken out of a copy of the chart. Shown are what
# the server does with objects: conflicts of field managers, what an upgrade, a rollback and an uninstall leave, and tokens.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec </dev/null

# shellcheck source=tests/kubernetes/api_server.sh
source tests/kubernetes/api_server.sh
# shellcheck source=.ci/chart.sh
source .ci/chart.sh
mkdir -p "$tools"
install_helm
readonly repository=$PWD

cd "$run"
cat >kubeconfig <<END
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "$api", certificate-authority: "$run/ca.crt"}}]
users: [{name: u, user: {token: "$(cat admin.token)"}}]
END
export KUBECONFIG="$run/kubeconfig" HELM_CACHE_HOME="$run/helm" HELM_CONFIG_HOME="$run/helm" HELM_DATA_HOME="$run/helm"

# The commands stand as in the documents; that a client is so much newer than its server is none of their business.
kubectl() {
  "$kubectl" "$@" 2> >(grep -v -e '^Warning: ' >&2)
}
helm() {
  "$helm" "$@" 2> >(grep -v -e 'symbolic link' >&2)
}

shown=0
ok() {
  shown=$((shown + 1))
  echo "ok: $*"
}
# so WHAT COMMAND…: it must succeed. not_so WHAT PATTERN COMMAND…: it must fail, and say so.
so() {
  local what=$1
  shift
  "$@" >out 2>&1 || { echo "FAILED: $what" && cat out && exit 1; }
  ok "$what"
}
not_so() {
  local what=$1 pattern=$2
  shift 2
  if "$@" >out 2>&1; then echo "FAILED: $what" && cat out && exit 1; fi
  grep -q "$pattern" out || { echo "FAILED: $what" && cat out && exit 1; }
  ok "$what"
}

cat >users.toml <<'END'
[[users]]
merchant_id = "bece038f-2e46-49f4-b25e-89cd38d6dc16"
number = "+447871239999"
password = "1234Qwerty"
END
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=broker -keyout tls.key -out tls.crt 2>/dev/null
cp tls.crt ca.crt

# README.md, docs/operations.md, the chart's README, and the head of the manifests.
so "a namespace" kubectl create namespace token-broker
so "its label" kubectl label namespace token-broker pod-security.kubernetes.io/enforce=restricted
so "the users' Secret" kubectl --namespace token-broker create secret generic token-broker-credentials --from-file=users.toml
so "the certificate's Secret" kubectl --namespace token-broker create secret generic token-broker-tls --type=kubernetes.io/tls \
  --from-file=tls.crt --from-file=tls.key --from-file=ca.crt
so "the issuer" kubectl get --raw /.well-known/openid-configuration
jq -e --arg issuer "$issuer" '.issuer == $issuer' out >/dev/null || { echo "FAILED: another issuer" && exit 1; }

# NOTES.txt: users are changed.
change_users() {
  kubectl --namespace token-broker create secret generic token-broker-credentials --from-file=users.toml \
    --dry-run=client --output=yaml | kubectl apply --server-side "$@" --filename=-
}
echo '# changed' >>users.toml
not_so "without --force-conflicts the command that made the Secret is in the way" 'conflict with "kubectl-create"' change_users
so "users are changed after kubectl create" change_users --force-conflicts
echo '# changed again' >>users.toml
so "users are changed again" change_users --force-conflicts
kubectl --namespace token-broker get secret token-broker-credentials -o jsonpath='{.data.users\.toml}' | base64 -d | cmp - users.toml
ok "what is there is what was given"

# The manifests. PodDisruptionBudgets are of policy/v1beta1 there, and probes know no gRPC.
python3 - "$repository/deploy/kubernetes/token-broker.yaml" >manifests.yaml <<'END'
import re, sys
parts = open(sys.argv[1]).read().split("\n---\n")
parts = [part for part in parts if "kind: PodDisruptionBudget" not in part]
text = re.sub(r"\n          readinessProbe:\n(            .*\n)+          livenessProbe:\n(            .*\n)+", "\n", "\n---\n".join(parts))
print(re.sub(r"\n *(# The pods of each.*|matchLabelKeys.*)", "", text))
END
so "the manifests" kubectl apply --filename manifests.yaml
so "the manifests again" kubectl apply --filename manifests.yaml
kubectl delete --filename manifests.yaml >/dev/null

# sandbox/README.md: the trial's manifests, as far as a server without nodes takes them.
so "the sandbox" kubectl apply --filename "$repository/deploy/kubernetes/sandbox.yaml"
so "the trial's caller" kubectl apply --filename "$repository/deploy/kubernetes/trial-caller.yaml"

# docs/runbook.md: a token for a question from outside.
so "the caller's namespace" kubectl create namespace cards
so "the caller's service account" kubectl --namespace cards create serviceaccount cards
so "the broker's CA" kubectl -n token-broker get secret token-broker-tls -o jsonpath='{.data.ca\.crt}'
base64 -d out | cmp - ca.crt
so "its pods, of which none run here" kubectl -n token-broker get pods -l app.kubernetes.io/name=token-broker
so "a token of the caller's account" kubectl --namespace cards create token cards --audience token-broker --duration 10m
grep -q '^eyJ' out

# The chart.
cp -rL "$repository/deploy/charts/token-broker" chart
sed -i '/^kubeVersion:/d' chart/Chart.yaml
sed -i '/readinessProbe:/,/terminationGracePeriodSeconds: 5/d; /matchLabelKeys/d' chart/templates/deployment.yaml
cat >my-values.yaml <<'END'
vault: {baseUrl: https://api.vault.sandbox.testessential.net}
credentials: {secrets: [{name: users, secretName: token-broker-credentials}]}
tls: {secretName: token-broker-tls}
auth: {serviceAccounts: {enabled: true}}
callers: [{id: "system:serviceaccount:cards:cards", merchants: ["*"]}]
# What this server has in other versions, or fills in later than Helm expects.
podDisruptionBudget: {enabled: false}
service: {enabled: false}
headlessService: {enabled: false}
END
install() {
  helm upgrade --install token-broker ./chart --namespace token-broker --values my-values.yaml "$@"
}
reviews() {
  [ "$(kubectl auth can-i create tokenreviews.authentication.k8s.io --as=system:serviceaccount:token-broker:token-broker)" = yes ]
}
is_there() {
  kubectl --namespace token-broker get "$1" token-broker
}
so "an installation" install
if reviews; then echo "FAILED: it may review without a cause" && exit 1; fi
so "reviews are turned on" install --set auth.serviceAccounts.tokenReview=true
await "it may review" 5 reviews
so "reviews are turned off" install
so "and it still may review, for the pods that do" reviews
so "on again: what was kept is taken over" install --set auth.serviceAccounts.tokenReview=true
so "a rollback to before reviews" helm rollback token-broker 1 --namespace token-broker
so "and it still may review" reviews
so "the service account is there" is_there serviceaccount
remove() {
  kubectl delete clusterrole,clusterrolebinding token-broker-token-broker-tokenreviews
}
so "removing the permission, as the README says" remove
may_no_longer() { ! reviews; }
await "then it may no longer" 5 may_no_longer
ok "then it may no longer"

not_so "an operator that isn't there is named" 'monitoring.podMonitor.enabled needs Prometheus Operator' install --set monitoring.podMonitor.enabled=true

# From 1.22 on an upgrade conflicts with that, unless it is told to force its way; this server doesn't keep who scaled.
so "replicas by hand" kubectl --namespace token-broker scale deployment token-broker --replicas=3
so "an upgrade that forces its way" install --force-conflicts
[ "$(kubectl --namespace token-broker get deployment token-broker -o jsonpath='{.spec.replicas}')" = 2 ]
ok "replicas are what the values say"

so "reviews once more" install --set auth.serviceAccounts.tokenReview=true
so "it is uninstalled" helm uninstall token-broker --namespace token-broker
grep -q 'kept due to the resource policy' out
so "what was kept is removed" remove
so "and the service account" kubectl --namespace token-broker delete serviceaccount token-broker
so "and it is installed anew" install

echo "All $shown were shown."
