# A static binary in an empty image. Both base images can be replaced, for a mirror or a pinned
# digest:
#
#   docker build --build-arg BUILD_IMAGE=mirror.example/rust:1.95-bookworm \
#                --build-arg FINAL_IMAGE=mirror.example/distroless/static -t cutover .

ARG BUILD_IMAGE=rust:1.95-bookworm
ARG FINAL_IMAGE=scratch

FROM ${BUILD_IMAGE} AS build
# cmake and a C compiler build aws-lc; the CA bundle is what the final image trusts.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY src src
# With a target named, RUSTFLAGS do not reach build scripts and procedural macros, which cannot be
# static.
ARG TARGETARCH
RUN case "${TARGETARCH:-$(dpkg --print-architecture)}" in \
        amd64) target=x86_64-unknown-linux-gnu ;; \
        arm64) target=aarch64-unknown-linux-gnu ;; \
        *) echo "no build for ${TARGETARCH}" >&2; exit 1 ;; \
    esac \
    && RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --locked --release --bins --target "$target" \
    && mkdir -p /image/usr/bin /image/etc/ssl/certs /image/data /image/config /image/run/cutover /image/tmp \
    && chmod 0700 /image/data /image/run/cutover \
    && chmod 1777 /image/tmp \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && for program in cutover proxyctl; do \
        strip -o "/image/usr/bin/$program" "target/$target/release/$program" || exit 1; \
        if ldd "/image/usr/bin/$program" >/dev/null 2>&1; then \
            echo "$program is not static" >&2; exit 1; \
        fi; \
    done

FROM ${FINAL_IMAGE}
COPY --from=build /image/ /
# HTTP, HTTPS, the port that HTTP/3 will use, metrics and health.
EXPOSE 80 443 443/udp 9180
# Live colors and certificates; the configuration, looked for in the working directory first.
WORKDIR /config
VOLUME ["/data", "/config"]
# Drains for `shutdown_grace` (30 s by default): give `docker stop` at least as long.
STOPSIGNAL SIGTERM
# Asks this very process, over its unix socket.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["proxyctl", "ready"]
ENTRYPOINT ["cutover", "run"]
