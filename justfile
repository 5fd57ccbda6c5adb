# Every check there is.
check:
    ./scripts/test.sh

# Unit and integration tests.
test:
    cargo nextest run

# Criterion benches.
bench:
    cargo bench

# cutover beside nginx, haproxy and caddy.
bench-peers *ARGS:
    ./scripts/bench_peers.py {{ARGS}}
