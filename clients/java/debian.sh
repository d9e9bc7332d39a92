# shellcheck shell=bash disable=SC2034 # what is here is for the scripts that read it
# What the scripts beside this one need of Debian 12: its packages, where their jars are, and Netty's OpenSSL under the name that
# Netty looks for.
#
# Must never ask the network for what is installed.

debian_java=/usr/share/java

# JDK, and what a program that uses the client needs at run time: README.md, Start.
debian_run_packages=(
  default-jdk-headless libgrpc-java libprotobuf-java libgoogle-common-protos-java libguava-java libnetty-java libperfmark-java
)
# For TLS.
debian_tls_packages=(libnetty-tcnative-java libnetty-tcnative-jni)
# Maven, the plugins that pom.xml names for Debian, and the tests' framework.
debian_build_packages=(
  maven libmaven-resources-plugin-java libmaven-compiler-plugin-java libmaven-jar-plugin-java libsurefire-java junit4 openssl
  libanimal-sniffer-java libgoogle-gson-java # grpc-java's own files for Maven name them
  "${debian_run_packages[@]}" "${debian_tls_packages[@]}"
)
# protoc 3.21, and grpc-java's plugin for it of 1.41: all later protobuf-java 3 and grpc-java take what they write.
debian_generate_packages=(protobuf-compiler libprotobuf-dev protobuf-compiler-grpc-java-plugin)

# Installs those that are missing.
debian_need() {
  local missing=() package
  for package in "$@"; do
    if [ "$package" = default-jdk-headless ] && command -v javac >/dev/null; then
      continue # whichever JDK it is
    fi
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
      missing+=("$package")
    fi
  done
  if [ ${#missing[@]} -eq 0 ]; then
    return
  fi
  local command=(apt-get install -y -qq --no-install-recommends "${missing[@]}")
  if [ "$(id -u)" -ne 0 ]; then
    echo "these packages of Debian's are missing: as root, run: apt-get update && ${command[*]}" >&2
    return 1
  fi
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${command[@]}"; } >&2
}

# The class path of a program that uses the client, without the client.
debian_class_path() {
  local path='' name
  for name in grpc-api grpc-context grpc-core grpc-netty grpc-protobuf grpc-protobuf-lite grpc-stub \
    protobuf proto-google-common-protos guava perfmark-api netty-tcnative \
    netty-buffer netty-codec netty-codec-http netty-codec-http2 netty-common netty-handler netty-handler-proxy netty-resolver \
    netty-transport; do
    if [ ! -e "$debian_java/$name.jar" ]; then
      echo "there is no $debian_java/$name.jar: is this Debian 12?" >&2
      return 1
    fi
    path="$path${path:+:}$debian_java/$name.jar"
  done
  echo "$path"
}

# Puts Netty's OpenSSL into this directory, for -Djava.library.path: Debian gives it a name that Netty does not look for. A copy,
# since it looks at its own name, too.
debian_native() {
  mkdir -p "$1"
  local found=(/usr/lib/*/jni/libnetty-tcnative.so)
  cp "${found[0]}" "$1/libnetty_tcnative.so"
}

# Maven with Debian's repository, offline.
debian_maven() {
  mvn -o -B -Pdebian -Dmaven.repo.local=/usr/share/maven-repo -Dstyle.color=never "$@"
}
