# One static binary, `cutover`, and `proxyctl` beside it, on nothing else.
#
# The stages' base images can be replaced, for a mirror or an offline build:
#   docker build --build-arg BUILDER=registry.example/rust:1.95 --build-arg CERTS=... .
ARG BUILDER=rust:1.95-bookworm
ARG CERTS=debian:bookworm-slim
ARG RUNTIME=scratch

FROM ${BUILDER} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
COPY benches ./benches
COPY examples ./examples
COPY tests ./tests
ARG TARGET=x86_64-unknown-linux-gnu
# The target must be named, or procedural macros would be linked statically too.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN cargo build --locked --release --bins --target "$TARGET" \
    && mkdir -p /out/usr/bin /out/data /out/config /out/run/cutover /out/tmp \
    && cp "target/$TARGET/release/cutover" "target/$TARGET/release/proxyctl" /out/usr/bin/ \
    && strip /out/usr/bin/cutover /out/usr/bin/proxyctl

FROM ${CERTS} AS certs
RUN [ -s /etc/ssl/certs/ca-certificates.crt ] \
    || (apt-get update && apt-get install -y --no-install-recommends ca-certificates)

FROM ${RUNTIME}
COPY --from=build /out/ /
COPY --from=certs /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PATH=/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 80 443 443/udp 9180
VOLUME ["/data", "/config"]
STOPSIGNAL SIGTERM
# Asks this instance over its own admin socket, not whoever answers on 127.0.0.1.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/bin/proxyctl", "ready"]
ENTRYPOINT ["/usr/bin/cutover"]
CMD ["run"]
