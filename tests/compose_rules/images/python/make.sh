#!/usr/bin/env bash
# Makes a stand-in for the base image of the gateway's Dockerfile where no image can be pulled: Debian
# with its own Python, tagged with the name that the Dockerfile's FROM asks for.
# usage: make.sh [NAME]
#   SYSTEM_TAR     a root file system of Debian with python3-venv and ca-certificates; else mmdebstrap makes one
#   SSL_CERT_FILE  certificates to trust in it; else those of this machine
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../../..
system=stack-test/debian:bookworm

fail() {
    echo "error: $*" >&2
    exit 1
}

base_of_dockerfile() {
    sed -n 's/^ARG BASE=//p' "$root/Dockerfile"
}

make_system() {
    local tar=${SYSTEM_TAR:-}
    if [ -z "$tar" ]; then
        command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing: apt install mmdebstrap, or name a SYSTEM_TAR."
        tar=$work/system.tar
        mmdebstrap --variant=minbase --include=ca-certificates,curl,python3,python3-venv bookworm "$tar"
    fi
    docker import "$tar" "$system" >/dev/null
}

name=${1:-$(base_of_dockerfile)}
[ -n "$name" ] || fail "the Dockerfile names no BASE; name the image: make.sh python:3.12-slim-bookworm"
certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
[ -f "$certificates" ] || fail "$certificates is no file; name one in SSL_CERT_FILE, or install ca-certificates."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

docker image inspect "$system" >/dev/null 2>&1 || make_system
cp "$here/Dockerfile" "$work/"
cp "$certificates" "$work/ca-certificates.crt"
docker build --quiet --build-arg SYSTEM="$system" --tag "$name" "$work" >/dev/null
echo "made $name"
