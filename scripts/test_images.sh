#!/usr/bin/env bash
# Makes the images that the tests with a real Docker engine use, out of what is on this machine:
#
#   scripts/test_images.sh edge       cutover:test           $CUTOVER_BIN and $PROXYCTL_BIN
#   scripts/test_images.sh app V      cutover-test-app:V     release V of a web server, busybox
#   scripts/test_images.sh postgres   cutover-test-postgres  Debian's PostgreSQL
#
# `edge` has the last stage of the Dockerfile, so that user, ports, volumes and health check are
# those of the real image; only the programs are linked dynamically, which takes a second instead
# of minutes, and bring their libraries with them. An image that is there already is kept.
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
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        [ -e "$root$library" ] || install -D -m 0755 "$library" "$root$library"
    done
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
}

root=$work/root
rm -rf "$root" && mkdir -p "$root"
case ${1:-} in
edge)
    for program in cutover proxyctl; do
        variable=${program^^}_BIN
        strip -o "$work/$program" "${!variable:-target/debug/$program}"
        with_libraries "$work/$program" "/usr/bin/$program"
    done
    mkdir -p "$root/etc/ssl/certs" "$root/config" "$root/data" "$root/run" "$root/tmp"
    chmod 1777 "$root/data" "$root/run" "$root/tmp"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    sed -n '/^FROM ${RUNTIME}/,$p' Dockerfile |
        sed -e 's/^FROM .*/FROM scratch/' -e 's|^COPY --from=build .*|ADD root.tar /|' |
        build cutover:test
    ;;
app)
    # Says its color and release; /healthz is there unless the release is `broken`. Stops at once.
    install -D -m 0755 /bin/busybox "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    mkdir -p "$root/tmp"
    chmod 1777 "$root/tmp"
    cat >"$root/serve" <<'SERVE'
#!/bin/sh
b=/bin/busybox
$b mkdir -p /tmp/www
printf '%s %s\n' "$($b hostname)" "${RELEASE:-v1}" >/tmp/www/index.html
[ "${RELEASE:-v1}" = broken ] || printf 'ok\n' >/tmp/www/healthz
trap 'kill $server; exit 0' TERM INT
$b httpd -f -p "${PORT:-3000}" -h /tmp/www &
server=$!
wait $server
SERVE
    chmod 0755 "$root/serve"
    build "cutover-test-app:$2" <<DOCKERFILE
FROM scratch
ADD root.tar /
ENV RELEASE=$2
EXPOSE 3000
ENTRYPOINT ["/serve"]
DOCKERFILE
    ;;
postgres)
    bin=$(echo /usr/lib/postgresql/*/bin)
    version=$(basename "$(dirname "$bin")")
    for program in postgres initdb pg_isready psql; do
        with_libraries "$bin/$program" "$bin/$program"
    done
    mkdir -p "$root$bin/../lib" "$root/usr/share/postgresql" "$root/tmp" "$root/var/run/postgresql" "$root/var/lib/postgresql/data"
    cp "$bin"/../lib/{dict_snowball,plpgsql}.so "$root$bin/../lib/"
    cp -r "/usr/share/postgresql/$version" "$root/usr/share/postgresql/"
    cp -r /usr/share/zoneinfo "$root/usr/share/"
    chmod 1777 "$root/tmp" "$root/var/run/postgresql" "$root/var/lib/postgresql/data"
    install -D -m 0755 /bin/busybox "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    install -D -m 0644 /dev/stdin "$root/etc/passwd" <<<'postgres:x:999:999::/var/lib/postgresql:/bin/sh'
    cat >"$root/serve" <<'SERVE'
#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf %s "$(/bin/busybox cat "${POSTGRES_PASSWORD_FILE:-/dev/null}")" >/tmp/password
    initdb --username=postgres --pwfile=/tmp/password --auth-host=scram-sha-256 --no-locale --encoding=UTF8
    /bin/busybox rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c 'listen_addresses=*' -c fsync=off
SERVE
    chmod 0755 "$root/serve"
    build cutover-test-postgres <<DOCKERFILE
FROM scratch
ADD root.tar /
ENV PATH=$bin:/bin PGDATA=/var/lib/postgresql/data/pg
USER 999:999
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["/serve"]
DOCKERFILE
    ;;
*)
    echo "usage: $0 edge|app|postgres" >&2
    exit 2
    ;;
esac
