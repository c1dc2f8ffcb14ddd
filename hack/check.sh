#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, scripts, all tests. Ends in one summary line. What machines
# keep of the house rules, unused dependencies among them, is a test: conformance/tests/tidy.rs.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
hack/deps tests || exit 1
failed=0 passed=0 ignored=0
step() { printf '\n== %s\n' "$1"; shift; "$@" || { echo "FAILED: $*"; failed=$((failed + 1)); }; }

step "format" cargo fmt --all --check
mapfile -t scripts < <(git grep -lE "^#!.*\b(ba)?sh\b" -- hack conformance .ci)
step "scripts" shellcheck -x "${scripts[@]}"
step "lints" cargo clippy --workspace --all-targets --quiet -- -D warnings
if command -v cargo-deny >/dev/null; then step "licences and duplicates" cargo deny check licenses bans sources; fi

log=$(mktemp); out=""; trap 'rm -rf "$log" "$out"' EXIT
printf '\n== tests\n'
cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
[ "${PIPESTATUS[0]}" = 0 ] || failed=$((failed + 1))
while read -r p f i; do
  passed=$((passed + p)); failed=$((failed + f)); ignored=$((ignored + i))
done < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' "$log")

sed -nE 's/^test (.*) \.\.\. ignored, (.*)/skipped: \1: \2/p' "$log"

# Upstream's suite is built by conformance/upstream/build, which takes minutes: it is run where that was done.
version=$(sed -nE 's/^\s*k8s.io\/kubernetes (v[0-9.]+).*/\1/p' conformance/upstream/go.mod | head -1)
programs=${CORACLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/coracle}/upstream/$version
if [ -x "$programs/e2e.test" ] && [ -x "$programs/kubectl" ]; then
  out=$(mktemp -d)
  step "upstream's suite, step 1, against passing.txt" \
    cargo run -q -p coracle-conformance -- suite --check --no-node --step 1 --within 60 --out "$out"
  rm -rf "$out"
else
  echo "upstream's suite is skipped: it is not built (conformance/upstream/build, needs Go 1.26)"
fi

printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$ignored"
[ "$failed" = 0 ]
