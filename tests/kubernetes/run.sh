#!/usr/bin/env bash
# The broker against a real Kubernetes API server: `bash tests/kubernetes/run.sh`, as anybody, on Debian bookworm (amd64) with Rust
# by rustup.
#
# The tests of tests/it make keys, tokens and reviews themselves, so they hold what we believe of Kubernetes. Here Kubernetes makes
# them. No cluster is needed: kube-apiserver and etcd (api_server.sh) are enough for service accounts, pods that no node runs, and RBAC.
#
# One line is printed for each thing that was shown, and one that fails ends it with 1.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec </dev/null

readonly merchant=bece038f-2e46-49f4-b25e-89cd38d6dc16 number=+447871239999

nice -n 19 cargo build --quiet --locked --workspace --bins
# shellcheck source=tests/kubernetes/api_server.sh
source tests/kubernetes/api_server.sh
readonly vault_port=$((first_port + 3)) broker_port=$((first_port + 4))
binaries="$(cargo metadata --format-version 1 --no-deps --locked | jq -r .target_directory)/debug"
readonly binaries

# What an administrator would apply.
create() {
  admin POST "$1" "$2" >/dev/null
}
readonly rbac=/apis/rbac.authorization.k8s.io/v1
for name in cards token-broker; do
  create /api/v1/namespaces "{\"metadata\":{\"name\":\"$name\"}}"
  create "/api/v1/namespaces/$name/serviceaccounts" "{\"metadata\":{\"name\":\"$name\"}}"
done
create /api/v1/namespaces/cards/serviceaccounts '{"metadata":{"name":"other"}}'
create $rbac/clusterroles '{"metadata":{"name":"token-broker"},"rules":[
  {"apiGroups":["authentication.k8s.io"],"resources":["tokenreviews"],"verbs":["create"]}]}'
bind() {
  create $rbac/clusterrolebindings '{"metadata":{"name":"token-broker"},
    "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"token-broker"},
    "subjects":[{"kind":"ServiceAccount","namespace":"token-broker","name":"token-broker"}]}'
}
# may_review true|false: whether the broker may, as the API server sees it. Its authorizer learns of a change a moment later.
may_review() {
  local review='{"spec":{"resourceAttributes":{"group":"authentication.k8s.io","resource":"tokenreviews","verb":"create"}}}'
  [ "$(kube broker POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews "$review" | jq .status.allowed)" = "$1" ]
}

# token FILE NAMESPACE ACCOUNT AUDIENCE [POD]: what kubelet would mount.
token() {
  local spec
  spec=$(jq -n --arg audience "$4" '{expirationSeconds: 600} + if $audience == "" then {} else {audiences: [$audience]} end')
  if [ -n "${5:-}" ]; then
    spec=$(jq --arg name "$5" '.boundObjectRef = {apiVersion: "v1", kind: "Pod", name: $name}' <<<"$spec")
  fi
  admin POST "/api/v1/namespaces/$2/serviceaccounts/$3/token" "{\"spec\":$spec}" | jq -rj .status.token >"$run/$1.token"
}

# pod NAME ACCOUNT: no node ever runs it, but it is there.
pod() {
  create /api/v1/namespaces/cards/pods "{\"metadata\":{\"name\":\"$1\"},\"spec\":{\"serviceAccountName\":\"$2\",
    \"automountServiceAccountToken\":false,\"containers\":[{\"name\":\"cards\",\"image\":\"cards\"}]}}"
}

bind
token broker token-broker token-broker ''
await "the broker may create tokenreviews" 10 may_review true
for name in cards-1 cards-2 cards-3; do
  pod "$name" cards
  token "$name" cards cards token-broker "$name"
done
token elsewhere cards cards elsewhere cards-1
token for-the-api cards cards '' cards-1
pod other-1 other
token other cards other token-broker other-1

start vault "$binaries/token-broker-sandbox" --listen "127.0.0.1:$vault_port"
cat >"$run/config.toml" <<END
[grpc]
listen = "127.0.0.1:$broker_port"

[vault]
base_url = "http://127.0.0.1:$vault_port"

[auth.service_accounts]
issuer = "$issuer"
jwks_url = "$api/openid/v1/jwks"
token_review = true
token_review_url = "$api/apis/authentication.k8s.io/v1/tokenreviews"
ca_file = "ca.crt"
token_file = "broker.token"

[[callers]]
id = "system:serviceaccount:cards:cards"
merchants = ["$merchant"]

[[users]]
merchant_id = "$merchant"
number = "$number"
password = "1234Qwerty"
END
"$binaries/token-broker" check --config "$run/config.toml" >/dev/null
listens() {
  : <>"/dev/tcp/127.0.0.1/$1"
}
await "the vault listens" 10 listens "$vault_port"
start broker "$binaries/token-broker" serve --config "$run/config.toml"
await "the broker listens" 10 listens "$broker_port"

# answer TOKEN: what the broker says to a caller that has it: `token`, or the reason why not.
answer() {
  local out
  if out=$("$binaries/token-broker" get --endpoint "http://127.0.0.1:$broker_port" --token-file "$run/$1.token" \
    --merchant-id "$merchant" --number "$number" --raw 2>"$run/get.log") && [ -n "$out" ]; then
    echo token
  else
    sed -n '1s/^error: \([A-Z_]*\):.*/\1/p' "$run/get.log"
  fi
}

shown=0
ok() {
  shown=$((shown + 1))
  echo "ok: $*"
}
fail() {
  echo "FAILED: $*"
  exit 1
}

# expect TOKEN ANSWER WHAT
expect() {
  local said
  said=$(answer "$1")
  if [ "$said" = "$2" ]; then ok "$3: $said"; else fail "$3: '$said' instead of $2: $(cat "$run/get.log")"; fi
}

# logged COUNT-OR-MORE FILTER: in the API server's diary, for requests by the broker's service account.
logged() {
  [ "$(jq -s "[.[] | select(.user.username == \"system:serviceaccount:token-broker:token-broker\") | select($2)] | length" \
    "$run/audit.json")" -ge "$1" ]
}
warned() {
  grep -q "$1" "$run/broker.log"
}

echo "kube-apiserver $(cat "$cache/kubernetes/version") ($(admin GET /version | jq -r .goVersion)), etcd" \
  "$("$cache/kubernetes/etcd" --version | sed -n '1s/.*: //p')"

expect cards-1 token "a pod's token for the broker"
await "the broker's requests are in the audit log" 5 logged 1 '.responseStatus.code == 201 and .objectRef.resource == "tokenreviews"'
await "the broker's requests are in the audit log" 5 logged 1 '.responseStatus.code == 200 and .requestURI == "/openid/v1/jwks"'
ok "the API server gave the broker its keys (200) and a review (201), known by its own token"
expect elsewhere CALLER_UNAUTHENTICATED "the same pod's token for another audience"
expect for-the-api CALLER_UNAUTHENTICATED "the same pod's token for the API server"
expect other CALLER_NOT_ALLOWED "another service account's token"

expect cards-1 token "the pod's token, before the pod is deleted"
admin DELETE /api/v1/namespaces/cards/pods/cards-1 '{"gracePeriodSeconds":0}' >/dev/null
deleted=$SECONDS
# The API server remembers what it found for ten seconds, and so does the broker.
until said=$(answer cards-1) && [ "$said" != token ]; do
  if [ $((SECONDS - deleted)) -gt 25 ]; then fail "a deleted pod's token is still taken after 25 s"; fi
  sleep 0.5
done
if [ "$said" != CALLER_UNAUTHENTICATED ]; then fail "a deleted pod's token: '$said'"; fi
ok "the pod's token, $((SECONDS - deleted)) s after the pod was deleted: $said"

if warned 'create tokenreviews'; then fail "the broker complained before there was a cause"; fi
admin DELETE $rbac/clusterrolebindings/token-broker >/dev/null
await "the broker may no longer create tokenreviews" 10 may_review false
expect cards-2 IDENTITY_UNAVAILABLE "a new token, while the broker may not create tokenreviews"
await "the broker's log names the remedy" 5 warned 'give its service account a ClusterRole that may create tokenreviews'
ok "the broker's log: $(grep 'create tokenreviews' "$run/broker.log" | jq -r .message)"
bind
await "the broker may create tokenreviews again" 10 may_review true
expect cards-2 token "the same token, once it may again"

stop kube-apiserver
expect cards-3 IDENTITY_UNAVAILABLE "a new token, while the API server is stopped"
start_api
expect cards-3 token "the same token, once the API server is back"

echo "All $shown were shown."
