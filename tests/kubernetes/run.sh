#!/usr/bin/env bash
# The broker against a real Kubernetes API server: `bash tests/kubernetes/run.sh`, as anybody, on Debian bookworm (amd64) with Rust
# by rustup.
#
# The tests of tests/it make keys, tokens and reviews themselves, so they hold what we believe of Kubernetes. Here Kubernetes makes
# them. No cluster is needed: kube-apiserver and etcd are enough for service accounts, pods that no node runs, and RBAC.
#
# The first run builds kube-apiserver from Debian's source, in ten minutes or so; it is kept in the cache and takes 80 MB there. All
# of it listens on loopback and ends with the script. One line is printed for each thing that was shown, and one that fails ends it
# with 1.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec </dev/null

readonly cache="${XDG_CACHE_HOME:-$HOME/.cache}/token-broker-kubernetes"
readonly issuer=https://kubernetes.default.svc.cluster.local
readonly merchant=bece038f-2e46-49f4-b25e-89cd38d6dc16 number=+447871239999

# shellcheck source=.ci/tools.sh
source .ci/tools.sh

# Debian's packages, into a directory and not into the system: etcd-server would start a service, and another Go may be in use here.
# The index is fetched into the same place, since machines rarely have the one of the sources.
debian() {
  apt-get -qq -o Dir::Etc::SourceList="$1/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$1/lists" \
    -o Dir::Cache="$1" -o APT::Sandbox::User="$(id -un)" "${@:2}"
}

# All in one directory that gets its name when it is whole, so that a build that broke off is begun again.
build_kubernetes() {
  local work="$cache/build.$$" began=$SECONDS
  local source="$work/gopath/src/k8s.io/kubernetes"
  rm -rf "$cache"/build.*
  mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root" "$work/out" "$(dirname "$source")"
  local kind
  for kind in deb deb-src; do
    echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main"
  done >"$work/sources.list"
  debian "$work" update
  (
    cd "$work"
    debian "$work" source kubernetes >/dev/null
    debian "$work" download etcd-server golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev
    local package
    for package in *.deb; do dpkg-deb --extract "$package" root; done
    mv kubernetes-*/ "$source"
    # The copy that comes with it panics at the first JSON object since Go 1.18.
    rm -r "$source/vendor/github.com/modern-go/reflect2"
    cp -r root/usr/share/gocode/src/github.com/modern-go/reflect2 "$source/vendor/github.com/modern-go/"
  )
  dpkg-parsechangelog -l "$source/debian/changelog" -S Version >"$work/out/version"
  # Without modules, as Debian builds it: its go.mod is too old for this Go. A cache of its own, dropped afterwards. The schemas of
  # the API are not in the source, but made from it.
  (
    export GOROOT="$work/root/usr/lib/go-1.19" GOPATH="$work/gopath" GOCACHE="$work/gocache" GO111MODULE=off GOFLAGS='' CGO_ENABLED=0
    go=(nice -n 19 "$GOROOT/bin/go")
    cd "$source"
    "${go[@]}" build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    packages=$(grep -rl --include='*.go' '^// *+k8s:openapi-gen=true' pkg vendor/k8s.io/*/ | xargs -n 1 dirname | sort -u |
      grep -v -e code-generator -e sample-apiserver | sed 's,^,k8s.io/kubernetes/,' | paste -sd,)
    PATH="$GOROOT/bin:$PATH" "$work/openapi-gen" -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
      -h hack/boilerplate/boilerplate.generatego.txt -r "$work/violations"
    # The clouds' libraries would be half of the build.
    "${go[@]}" build -o "$work/out/kube-apiserver" -tags providerless -ldflags '-s -w' ./cmd/kube-apiserver
  )
  mv "$work/root/usr/bin/etcd" "$work/out/"
  mv "$work/out" "$cache/kubernetes"
  rm -rf "$work"
  echo "kube-apiserver was built in $((SECONDS - began)) s."
}

have curl || apt_install curl ca-certificates
have jq || apt_install jq
have openssl || apt_install openssl
if [ ! -x "$cache/kubernetes/kube-apiserver" ]; then
  have dpkg-source || apt_install dpkg-dev
  build_kubernetes
fi
nice -n 19 cargo build --quiet --locked --workspace --bins
binaries="$(cargo metadata --format-version 1 --no-deps --locked | jq -r .target_directory)/debug"
readonly binaries

# Five free ports in a row, below those that the system gives away itself.
free_ports() {
  local first port
  while true; do
    first=$((20000 + RANDOM % 12000))
    for port in $(seq "$first" $((first + 4))); do
      if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
    done
    echo "$first"
    return
  done
}

# Tokens and passwords lie there.
umask 077
run=$(mktemp -d)
first_port=$(free_ports)
readonly run etcd_port=$first_port peer_port=$((first_port + 1)) api_port=$((first_port + 2)) vault_port=$((first_port + 3))
readonly broker_port=$((first_port + 4))
readonly api=https://127.0.0.1:$api_port

# start NAME COMMAND…: its output goes to a file of that name.
declare -A pids
start() {
  local name=$1
  shift
  "$@" >>"$run/$name.log" 2>&1 &
  pids[$name]=$!
}

stop() {
  kill -KILL "${pids[$1]}" 2>/dev/null || true
  wait "${pids[$1]}" 2>/dev/null || true
  unset "pids[$1]"
}

cleanup() {
  local status=$? name
  for name in "${!pids[@]}"; do stop "$name"; done
  if [ "$status" -ne 0 ]; then
    for name in "$run"/*.log; do printf '\n== the end of %s\n' "$(basename "$name")" && tail -n 15 "$name"; done >&2
  fi
  rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# The cluster's CA and serving certificate, what it signs service accounts' tokens with, and whom it asks to keep a diary of.
cat >"$run/audit.yaml" <<'END'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    resources: [{group: authentication.k8s.io, resources: [tokenreviews]}]
  - level: Metadata
    nonResourceURLs: ["/openid/*"]
  - level: None
END
(
  cd "$run"
  ec=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
  openssl req -x509 "${ec[@]}" -keyout ca.key -out ca.crt -days 2 -subj /CN=cluster
  openssl req "${ec[@]}" -keyout api.key -out api.csr -subj /CN=kube-apiserver
  openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out api.crt -extfile <(echo subjectAltName=IP:127.0.0.1)
  # As kubeadm does: RSA of 2,048 bits.
  openssl genrsa -out accounts.key 2048
  openssl rsa -in accounts.key -pubout -out accounts.pub
  admin=$(openssl rand -hex 32)
  echo "$admin,admin,admin,system:masters" >admins.csv
  printf %s "$admin" >admin.token
) 2>"$run/openssl.log"

# kube TOKEN_FILE METHOD PATH [BODY]: the answer, or a failure for a status of 400 and above.
kube() {
  curl --silent --show-error --fail-with-body --noproxy '*' --max-time 10 --cacert "$run/ca.crt" -X "$2" "$api$3" \
    -H @<(printf 'Authorization: Bearer %s' "$(cat "$run/$1.token")") -H 'Content-Type: application/json' ${4:+--data "$4"}
}

admin() {
  kube admin "$@"
}

# await WHAT SECONDS COMMAND…
await() {
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ]; then
      echo "FAILED: $what" >&2
      return 1
    fi
    sleep 0.2
  done
}

start_api() {
  start kube-apiserver "$cache/kubernetes/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" --cert-dir="$run" \
    --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$api_port" --endpoint-reconciler-type=none \
    --tls-cert-file="$run/api.crt" --tls-private-key-file="$run/api.key" --service-cluster-ip-range=10.0.0.0/24 \
    --service-account-issuer="$issuer" --api-audiences="$issuer" --service-account-signing-key-file="$run/accounts.key" \
    --service-account-key-file="$run/accounts.pub" --authorization-mode=RBAC --anonymous-auth=false \
    --token-auth-file="$run/admins.csv" --audit-policy-file="$run/audit.yaml" --audit-log-path="$run/audit.json"
  await "the API server is ready" 90 admin GET /readyz
}

start etcd "$cache/kubernetes/etcd" --data-dir="$run/etcd" --listen-client-urls="http://127.0.0.1:$etcd_port" \
  --advertise-client-urls="http://127.0.0.1:$etcd_port" --listen-peer-urls="http://127.0.0.1:$peer_port" \
  --initial-advertise-peer-urls="http://127.0.0.1:$peer_port" --initial-cluster="default=http://127.0.0.1:$peer_port"
start_api

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
