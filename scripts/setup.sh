#!/usr/bin/env bash
# Installs what the tests and benches need from Debian, and starts a Docker engine when none
# answers. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
    build-essential cmake curl openssl procps python3-venv   # build, certificates, test clients
    nginx-light haproxy caddy                                # peers of the benches and tests
    pebble                                                   # ACME server of the tests, with its DNS
    wrk nghttp2-client hey                                   # load: wrk, h2load, hey
    docker.io docker-compose busybox-static dash             # the engine of the tests, what runs on it
    postgresql python3 rclone findutils util-linux           # a shop over a database, its offsite copies
)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    as_root=(env)
    [ "$(id -u)" -eq 0 ] || as_root=(sudo env)
    # Debian starts servers when it installs them; here they are only tools. Servers that run
    # already are left alone.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod +x "$policy"
    fi
    echo "setup: installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Clients of the protocol tests, pinned.
venv=target/venv
if [ ! -x "$venv/bin/python" ] || ! cmp -s tests/peers/requirements.txt "$venv/requirements.txt"; then
    mkdir -p target
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
    cp tests/peers/requirements.txt "$venv/requirements.txt"
fi
# An engine of its own only where there is none; it stays for the next run.
answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
if ! answers; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: no Docker engine answers this user; start one, or run this as root" >&2
        exit 1
    fi
    echo "setup: starting dockerd, its log is target/dockerd.log"
    rm -f /var/run/docker.pid
    setsid dockerd >target/dockerd.log 2>&1 </dev/null &
    engine=$!
    echo "$engine" >target/dockerd.pid
    for _ in $(seq 300); do
        if answers || ! kill -0 "$engine" 2>/dev/null; then break; fi
        sleep 0.2
    done
    if ! answers; then
        tail -n 20 target/dockerd.log >&2
        echo "setup: dockerd does not answer" >&2
        exit 1
    fi
fi
echo "setup: all there"
