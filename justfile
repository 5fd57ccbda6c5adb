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

# Long repetitions on optimised programs: 10,000 switches under load, 1,000 kills in the middle of
# writes, 100,000 random histories with crashes, 10,000 releases for each cell of the verdict,
# every kind of bad release 20 times, 200 kills while a release is judged, 200 containers that come
# and go, a kill around each record of a deploy, the engine killed at each step of one, 20 deploys in a
# row under load, and the way back of a database of 1 GB from its offsite copy. Goes on where an
# interrupted one ended; the counts are in target/soak.
soak:
    cargo build --profile fast --features failpoints --bins
    CUTOVER_BIN="$PWD/target/fast/cutover" PROXYCTL_BIN="$PWD/target/fast/proxyctl" \
        SOAK_DIR="$PWD/target/soak" SOAK_SWITCHES=10000 SOAK_KILLS=1000 \
        cargo nextest run --profile soak --test soak
    CUTOVER_BIN="$PWD/target/fast/cutover" PROXYCTL_BIN="$PWD/target/fast/proxyctl" \
        SOAK_DIR="$PWD/target/soak" SOAK_ROLLBACKS=20 SOAK_JUDGE_KILLS=200 \
        cargo nextest run --profile soak --test rollback --no-fail-fast
    CUTOVER_BIN="$PWD/target/fast/cutover" PROXYCTL_BIN="$PWD/target/fast/proxyctl" \
        SOAK_DIR="$PWD/target/soak" SOAK_CONTAINERS=200 \
        cargo nextest run --profile soak --test docker come_and_go
    CUTOVER_BIN="$PWD/target/fast/cutover" PROXYCTL_BIN="$PWD/target/fast/proxyctl" \
        SOAK_DIR="$PWD/target/soak" SOAK_DEPLOY_KILLS=96 SOAK_ENGINE_KILLS=28 SOAK_ROLLING_KILLS=54 \
        cargo nextest run --profile soak --test deploy killed
    CUTOVER_BIN="$PWD/target/fast/cutover" PROXYCTL_BIN="$PWD/target/fast/proxyctl" SOAK_DEPLOYS=20 \
        cargo nextest run --profile soak --test deploy releases_one_after_the_other --no-capture
    CUTOVER_BIN="$PWD/target/fast/cutover" PROXYCTL_BIN="$PWD/target/fast/proxyctl" SOAK_RESTORE_MB=1024 \
        cargo nextest run --profile soak --test image lost_database --no-capture
    SOAK_HISTORIES=100000 cargo nextest run --profile soak --cargo-profile fast --lib no_crash_breaks
    SOAK_RELEASES=10000 cargo nextest run --profile soak --cargo-profile fast --test verdict
