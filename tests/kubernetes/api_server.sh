# Sourced by the scripts beside it, at the root of the repository: a real Kubernetes API server with etcd, on loopback, which end with the
# script that sources this. No cluster: no controller, no scheduler and no node, so that nothing runs and nothing is rolled.
#
# The first time it is built from Debian's source, in five to ten minutes; it is kept in the cache and takes 80 MB there.
# Whoever sources it has `set -e`.
# shellcheck shell=bash disable=SC2164

readonly cache="${XDG_CACHE_HOME:-$HOME/.cache}/token-broker-kubernetes"
readonly issuer=https://kubernetes.default.svc.cluster.local

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

# Five free ports in a row, below those that the system gives away itself: three are used here, and two left.
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
readonly run etcd_port=$first_port peer_port=$((first_port + 1)) api_port=$((first_port + 2))
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
  openssl req -x509 "${ec[@]}" -keyout ca.key -out ca.crt -days 30 -subj /CN=cluster
  openssl req "${ec[@]}" -keyout api.key -out api.csr -subj /CN=kube-apiserver
  openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out api.crt -extfile <(echo subjectAltName=IP:127.0.0.1)
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
