#!/usr/bin/env bash
# The quick gate before a commit: format, lints, documentation, and every test that needs no mount and no other program.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --check
cargo clippy --quiet --all-targets --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --locked
cargo nextest run --locked -E 'not (binary(mount) + binary(interop))' "$@"
