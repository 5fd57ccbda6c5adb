#!/usr/bin/env bash
# Makes the images that the tests with a real Docker engine use, out of what is on this machine:
#
#   scripts/test_images.sh edge       cutover:test           $CUTOVER_BIN
#   scripts/test_images.sh app V      cutover-test-app:V     release V of a web server, busybox
#   scripts/test_images.sh shop V     cutover-test-shop:V    release V of tests/deploy/shop.py
#   scripts/test_images.sh postgres   cutover-test-postgres  Debian's PostgreSQL, server and clients
#   scripts/test_images.sh rclone     cutover-test-rclone    Debian's rclone
#
# `edge` has the last stage of the Dockerfile, so that user, ports, volumes and health check are
# those of the real image; only the program is linked dynamically, which takes a second instead
# of minutes, and brings its libraries with it. An image that is there already is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(realpath "${CARGO_TARGET_DIR:-target}")/images
mkdir -p "$work"
exec 9>"$work/lock"
flock 9

# A program with its libraries, at their own places below $root.
with_libraries() {
    local program=$1 place=$2
    install -D -m 0755 "$program" "$root$place"
    ldd "$program" | { grep -o '/[^ ]*' || true; } | while read -r library; do
        [ -e "$root$library" ] || install -D -m 0755 "$library" "$root$library"
    done
}

# A shell with the usual commands. It is not busybox's, which takes its own `find` whatever is in PATH.
with_shell() {
    local applet
    with_libraries /bin/dash /bin/sh
    install -D -m 0755 /bin/busybox "$root/bin/busybox"
    for applet in cat chmod cp date dd gunzip gzip head kill killall grep ls mkdir mv rm sha256sum sleep \
        stat sync tail test touch true wc; do
        ln -s busybox "$root/bin/$applet"
    done
    mkdir -p "$root/tmp"
    chmod 1777 "$root/tmp"
}

# build TAG: the folder $root with the Dockerfile on stdin, unless TAG was made of the same.
build() {
    local tag=$1 context=$work/context sum
    rm -rf "$context" && mkdir "$context"
    cat >"$context/Dockerfile"
    # The same files give the same archive, and the same archive the same image.
    tar --create --file "$context/root.tar" --sort=name --mtime=@0 --owner=0 --group=0 \
        --directory "$root" .
    sum=$(cat "$context/Dockerfile" "$context/root.tar" | sha256sum | cut -d' ' -f1)
    if [ "$(docker image inspect --format '{{index .Config.Labels "sum"}}' "$tag" 2>/dev/null)" != "$sum" ]; then
        docker build --quiet --label "sum=$sum" --tag "$tag" "$context" >/dev/null
    fi
    rm -rf "$context" "$root"
    touch "$work/${tag/:/-}.made"
}

# Whether TAG is there and was made after these files were changed last.
is_fresh() {
    local tag=$1 made=$work/${1/:/-}.made file
    shift
    docker image inspect "$tag" >/dev/null 2>&1 || return 1
    for file in "$0" "$@"; do
        [ "$made" -nt "$file" ] || return 1
    done
}

root=$work/root
rm -rf "$root" && mkdir -p "$root"
case ${1:-} in
edge)
    strip -o "$work/cutover" "${CUTOVER_BIN:-target/debug/cutover}"
    with_libraries "$work/cutover" /usr/bin/cutover
    ln -s cutover "$root/usr/bin/proxyctl"
    mkdir -p "$root/etc/ssl/certs" "$root/config" "$root/data" "$root/run" "$root/tmp"
    chmod 1777 "$root/data" "$root/run" "$root/tmp"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    sed -n '/^FROM ${RUNTIME}/,$p' Dockerfile |
        sed -e 's/^FROM .*/FROM scratch/' -e 's|^COPY --from=build .*|ADD root.tar /|' |
        build cutover:test
    ;;
app)
    # Says its name and release; /healthz is there unless the release is `broken`, and one that is
    # `bad` fails all else. Stops at once.
    install -D -m 0755 /bin/busybox "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    mkdir -p "$root/tmp"
    chmod 1777 "$root/tmp"
    cat >"$root/serve" <<'SERVE'
#!/bin/sh
b=/bin/busybox
[ "${1:-}" != migrate ] || exit 0
$b mkdir -p /tmp/www
printf '%s %s\n' "$($b hostname)" "${RELEASE:-v1}" >/tmp/www/index.html
[ "${RELEASE:-v1}" = broken ] || printf 'ok\n' >/tmp/www/healthz
# One that is healthy and answers nothing else.
if [ "${RELEASE:-v1}" = bad ]; then
    exec $b nc -ll -p "${PORT:-3000}" -e /fail
fi
trap 'kill $server; exit 0' TERM INT
$b httpd -f -p "${PORT:-3000}" -h /tmp/www &
server=$!
wait $server
SERVE
    cat >"$root/fail" <<'FAIL'
#!/bin/sh
read -r method path version
while read -r line && [ "${#line}" -gt 1 ]; do :; done
case $path in
/healthz) status="200 OK" ;;
*) status="500 Internal Server Error" ;;
esac
printf 'HTTP/1.1 %s\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad' "$status"
FAIL
    chmod 0755 "$root/serve" "$root/fail"
    build "cutover-test-app:$2" <<DOCKERFILE
FROM scratch
ADD root.tar /
ENV RELEASE=$2
EXPOSE 3000
ENTRYPOINT ["/serve"]
DOCKERFILE
    ;;
shop)
    bin=$(echo /usr/lib/postgresql/*/bin)
    if is_fresh "cutover-test-shop:$2" tests/deploy/shop.py "$bin/psql" /usr/bin/python3; then exit 0; fi
    with_shell
    with_libraries "$bin/psql" /usr/bin/psql
    python=$(realpath /usr/bin/python3)
    with_libraries "$python" /usr/bin/python3
    # The modules that it needs, with what is loaded only later.
    "$python" -SB - <<'MODULES' | while read -r file; do
import base64, encodings.idna, hashlib, http.server, os, queue, signal, subprocess, sys, threading, time
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
for name in os.listdir(os.path.dirname(encodings.__file__)):
    files.add(os.path.join(os.path.dirname(encodings.__file__), name))
for file in sorted(file for file in files if file and os.path.isfile(file)):
    print(file)
MODULES
        case $file in
        *.so) with_libraries "$file" "$file" ;;
        *) install -D -m 0644 "$file" "$root$file" ;;
        esac
    done
    install -D -m 0644 tests/deploy/shop.py "$root/shop.py"
    # The files get the time 0 in the archive, which is not that of their sources.
    "$python" -B -m compileall -q --invalidation-mode unchecked-hash \
        -s "$root" "$root" >/dev/null
    build "cutover-test-shop:$2" <<DOCKERFILE
FROM scratch
ADD root.tar /
ENV PATH=/usr/bin:/bin VERSION=$2
EXPOSE 3000
CMD ["/usr/bin/python3", "-SB", "/shop.py"]
DOCKERFILE
    ;;
postgres)
    # What the official image understands of its variables, its user and its entry point.
    bin=$(echo /usr/lib/postgresql/*/bin)
    if is_fresh cutover-test-postgres "$bin/postgres" "$bin/pg_dump"; then exit 0; fi
    with_shell
    version=$(basename "$(dirname "$bin")")
    for program in postgres initdb pg_isready psql pg_dump pg_restore; do
        with_libraries "$bin/$program" "$bin/$program"
    done
    with_libraries /usr/bin/find /usr/bin/find
    with_libraries /usr/bin/setpriv /usr/bin/setpriv
    mkdir -p "$root$bin/../lib" "$root/usr/share/postgresql" "$root/var/run/postgresql" "$root/var/lib/postgresql/data"
    cp "$bin"/../lib/{dict_snowball,plpgsql}.so "$root$bin/../lib/"
    cp -r "/usr/share/postgresql/$version" "$root/usr/share/postgresql/"
    cp -r /usr/share/zoneinfo "$root/usr/share/"
    chmod 1777 "$root/var/run/postgresql" "$root/var/lib/postgresql/data"
    install -D -m 0644 /dev/stdin "$root/etc/passwd" <<'PASSWD'
root:x:0:0::/:/bin/sh
postgres:x:999:999::/var/lib/postgresql:/bin/sh
PASSWD
    cat >"$root/serve" <<'SERVE'
#!/bin/sh
set -e
[ "${1:-postgres}" = postgres ] || exec "$@"
as="setpriv --reuid=999 --regid=999 --clear-groups"
user=${POSTGRES_USER:-postgres}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf %s "$(cat "${POSTGRES_PASSWORD_FILE:-/dev/null}")" >/tmp/password
    [ -s /tmp/password ] || printf postgres >/tmp/password
    $as initdb --username="$user" --pwfile=/tmp/password --auth-host=scram-sha-256 --no-locale --encoding=UTF8
    rm /tmp/password
    echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
    if [ "${POSTGRES_DB:-$user}" != postgres ]; then
        echo "create database \"${POSTGRES_DB:-$user}\"" | $as postgres --single template1
    fi
fi
exec $as postgres -c 'listen_addresses=*' -c fsync=off
SERVE
    chmod 0755 "$root/serve"
    build cutover-test-postgres <<DOCKERFILE
FROM scratch
ADD root.tar /
ENV PATH=$bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data/pg
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["/serve"]
CMD ["postgres"]
DOCKERFILE
    ;;
rclone)
    if is_fresh cutover-test-rclone /usr/bin/rclone; then exit 0; fi
    with_shell
    with_libraries /usr/bin/rclone /usr/bin/rclone
    build cutover-test-rclone <<DOCKERFILE
FROM scratch
ADD root.tar /
ENV PATH=/usr/bin:/bin
ENTRYPOINT ["/usr/bin/rclone"]
DOCKERFILE
    ;;
*)
    echo "usage: $0 edge|app V|shop V|postgres|rclone" >&2
    exit 2
    ;;
esac
