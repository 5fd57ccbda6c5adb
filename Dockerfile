# One static binary, `cutover`, which is `proxyctl` too, on nothing else.
#
# The stages' base images can be replaced, for a mirror, a pinned digest or an offline build:
#
#   docker build --build-arg BUILDER=registry.example/rust:1.95-bookworm \
#                --build-arg RUNTIME=registry.example/static -t cutover .
#
# BUILDER needs cargo, a C compiler and cmake (for aws-lc) and a CA bundle; what a Debian image
# lacks of them is installed.
ARG BUILDER=rust:1.95-bookworm
ARG RUNTIME=scratch

FROM ${BUILDER} AS build
RUN if ! { command -v cc && command -v cmake && [ -s /etc/ssl/certs/ca-certificates.crt ]; } >/dev/null; then \
        apt-get update \
        && apt-get install -y --no-install-recommends ca-certificates cmake gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches ./benches
COPY src ./src
ARG TARGET=x86_64-unknown-linux-gnu
# The target must be named, or procedural macros would be linked statically too. lld, which is the linker
# of Rust for this one, folds functions that are the same and packs relocations.
# `proxyctl` is the same file under its own name.
RUN case "$TARGET" in \
        x86_64-*-linux-gnu) small="-C link-arg=-Wl,--icf=all -C link-arg=-Wl,--pack-dyn-relocs=relr" ;; \
        *) small="" ;; \
    esac \
    && export RUSTFLAGS="-C target-feature=+crt-static $small" \
    && cargo build --locked --profile image --bin cutover --target "$TARGET" \
    && mkdir -p /out/usr/bin /out/etc/ssl/certs /out/config /out/data /out/run /out/tmp \
    && chmod 1777 /out/data /out/run /out/tmp \
    && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
    && cp "target/$TARGET/image/cutover" /out/usr/bin/ \
    && ln -s cutover /out/usr/bin/proxyctl \
    && if readelf --program-headers /out/usr/bin/cutover | grep -q INTERP; then \
        echo "cutover needs a dynamic loader" >&2; exit 1; \
    fi

FROM ${RUNTIME}
COPY --from=build /out/ /
LABEL org.opencontainers.image.title="cutover" \
      org.opencontainers.image.description="Edge reverse proxy with blue-green releases" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# It starts as root, because the volumes and the socket of the container that it replaces are
# root's, and becomes this user before it listens; `user:` in Compose works as well. /data, /run
# and /tmp are open so that every user can make a folder of its own there, which is private.
ENV CUTOVER_UID=10001
# HTTP, HTTPS, the same port for HTTP/3, metrics and health.
EXPOSE 80 443 443/udp 9180
# `run` looks for ./cutover.toml first: mount the folder, not the file, so that a reload sees a file
# that an editor has replaced.
WORKDIR /config
# Live colors and certificates; the configuration.
VOLUME ["/data", "/config"]
# A stop drains for `shutdown_grace`, 30 s by default: give `docker stop` longer than that.
STOPSIGNAL SIGTERM
# Asks this instance over its own admin socket, not whoever answers on 127.0.0.1.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/bin/proxyctl", "ready"]
ENTRYPOINT ["/usr/bin/cutover"]
CMD ["run"]
