#!/usr/bin/env bash
# Makes the conformance adapter over the built client, as EMPTY/adapter: install.sh OUT EMPTY, with OUT as build.sh left it.
#
# Must never use the client's sources: only what a user gets.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$here/debian.sh"
built=("$1"/token-broker-client-*.jar)
if [ ! -e "${built[0]}" ]; then
  echo "there is no token-broker-client-*.jar in $1: run build.sh $1 first" >&2
  exit 1
fi
mkdir -p "$2"
empty=$(cd "$2" && pwd)

# Gson reads the adapter's commands.
debian_need "${debian_run_packages[@]}" "${debian_tls_packages[@]}" libgoogle-gson-java
cp "${built[0]}" "$empty"
debian_native "$empty/native"
path="$empty/$(basename "${built[0]}"):$(debian_class_path):$debian_java/gson.jar"
javac -nowarn -encoding UTF-8 -d "$empty/classes" -cp "$path" "$here/conformance/Adapter.java"
# The JVM keeps addresses for 30 s, unless it is told: see README.md.
cat > "$empty/adapter" <<ADAPTER
#!/bin/sh
exec java -XX:TieredStopAtLevel=1 -Dsun.net.inetaddr.ttl=1 -Djava.library.path="$empty/native" -cp "$empty/classes:$path" Adapter
ADAPTER
chmod +x "$empty/adapter"
