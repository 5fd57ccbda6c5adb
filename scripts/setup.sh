#!/usr/bin/env bash
# Installs what the tests and benches need from Debian. Safe to run again.
set -euo pipefail

packages=(
    build-essential cmake curl openssl procps python3-venv   # build, certificates, test clients
    nginx-light haproxy caddy                                # peers of the benches
    wrk nghttp2-client hey                                   # load: wrk, h2load, hey
)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    # Debian starts servers when it installs them; here they are only tools.
    policy=/usr/sbin/policy-rc.d
    made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
        "${sudo[@]}" chmod +x "$policy"
        made_policy=yes
    fi
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    [ -z "$made_policy" ] || "${sudo[@]}" rm -f "$policy"
fi

# Clients of the protocol tests, pinned.
venv=target/venv
if [ ! -x "$venv/bin/python" ] || ! cmp -s tests/peers/requirements.txt "$venv/requirements.txt"; then
    mkdir -p target
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
    cp tests/peers/requirements.txt "$venv/requirements.txt"
fi
echo "setup: all there"
