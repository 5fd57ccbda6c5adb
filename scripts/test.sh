#!/usr/bin/env bash
# Every check there is; the first that fails ends it. Installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "setup"
./scripts/setup.sh

step "format"
cargo fmt --all --check

step "clippy"
cargo clippy --locked --all-targets -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet

step "dependencies"
if ! command -v cargo-deny >/dev/null; then
    # Without optimisation: it runs for two seconds and is compiled in one minute in place of several.
    cargo install cargo-deny --locked --quiet --debug
fi
cargo deny --log-level error check bans licenses sources
# The advisory database is fetched; a machine without a way to it says so and goes on.
if ! advisories=$(cargo deny --log-level error check advisories 2>&1); then
    if grep -q 'failed to fetch advisory database' <<<"$advisories"; then
        echo "NOT CHECKED: the advisory database cannot be reached from here"
    else
        echo "$advisories"
        exit 1
    fi
fi

step "tests"
# The load tests run optimised programs.
# With fail points, for the tests that kill the daemon in the middle of a write.
cargo build --locked --profile fast --features failpoints --bins
built=$(realpath "${CARGO_TARGET_DIR:-target}")
export CUTOVER_BIN="$built/fast/cutover"
export PROXYCTL_BIN="$built/fast/proxyctl"
if command -v cargo-nextest >/dev/null; then
    INSTA_UPDATE=no cargo nextest run --locked --no-fail-fast
else
    INSTA_UPDATE=no cargo test --locked --all-targets --no-fail-fast
fi
cargo test --locked --doc --quiet
