# Sourced by the recipes of the justfile: builds the fuzzers of fuzz/ and runs them, two at a time.
#
# They are built as cargo-fuzz builds them without a sanitizer, which the compiler of this repository can do; with `cargo fuzz` and a
# nightly one they run too, under AddressSanitizer. What they find to be worth keeping stays in the target directory, and the next run
# begins with it; what is kept for good stands in fuzz/corpus.
# shellcheck shell=bash

# How many run at once: as many as the smallest machine that this runs on has cores.
fuzzers_at_once=2

fuzz_target_dir="${CARGO_TARGET_DIR:-target}"
fuzz_target_dir="$(realpath --canonicalize-missing "$fuzz_target_dir")/fuzz"

# Has LLVM count the branches that are taken, and note what is compared with what.
fuzz_flags="--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"

# One fuzzer for so many seconds; a line with what it did, or all that it said.
fuzz_one() {
  local name="$1" seconds="$2" grown="$fuzz_target_dir/corpus/$1" found="$fuzz_target_dir/found/$1" log runs
  log="$fuzz_target_dir/$name.log"
  mkdir -p "$grown" "$found"
  # The first corpus is the one that grows. One input may take ten seconds, and
  # the memory of a small container.
  if ! "$fuzz_programs/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
    -dict=fuzz/words.dict -artifact_prefix="$found/" "$grown" "fuzz/corpus/$name" >"$log" 2>&1; then
    tail -n 40 "$log"
    printf 'FAILED %s: mend it, and keep what it found in %s as fuzz/corpus/%s/WHAT_IT_IS\n' "$name" "$found" "$name"
    return 1
  fi
  runs=$(awk '/^stat::number_of_executed_units:/ { print $2 }' "$log")
  printf '%-20s %12d runs, %s\n' "$name" "$runs" "$(awk '/^INFO: Seed:/ { print "seed " $3 }' "$log")"
}

# fuzz SECONDS [TARGET…]: these, or all.
fuzz() {
  local seconds="$1" host
  shift
  host=$(rustc --version --verbose | sed -n 's/^host: //p')
  # With a target named, what runs while it is built isn't instrumented.
  (cd fuzz && RUSTFLAGS="$fuzz_flags" cargo build --locked --quiet --release --target "$host" --target-dir "$fuzz_target_dir")
  fuzz_programs="$fuzz_target_dir/$host/release"
  export fuzz_target_dir fuzz_programs
  export -f fuzz_one
  if [ "$#" -ne 0 ]; then printf '%s\n' "$@"; else ls fuzz/corpus; fi | xargs --max-procs="$fuzzers_at_once" -I{} bash -euo pipefail -c "fuzz_one {} $seconds"
}
