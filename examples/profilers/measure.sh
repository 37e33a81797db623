#!/bin/sh
# A program for autoprune's `command` profiler: one JSON request on stdin, one JSON reply on stdout.
#
#   measure.sh RUNNER [ARGUMENT ...]
#
# RUNNER is yours. It is called as
#   RUNNER [ARGUMENT ...] --version                              and prints its version
#   RUNNER [ARGUMENT ...] MODEL.onnx WARMUP RUNS INPUT.bin ...   and prints RUNS lines, each the
#                                                                milliseconds of one forward pass
# It fails with a status other than 0, and says why on stderr.
set -eu

request=$(cat)
value() { printf '%s\n' "$request" | sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p"; }

case $(value request) in
device)
    version=$("$@" --version)
    printf '{"name": "%s", "runtime": "%s", "runtime_version": "%s"}\n' \
        "$(uname -m)" "$(basename "$1")" "$version"
    ;;
run)
    inputs=$(printf '%s\n' "$request" | grep -o '"path": "[^"]*"' | cut -d'"' -f4)
    # shellcheck disable=SC2086  # one word for each input
    times=$("$@" "$(value model)" "$(value warmup)" "$(value runs)" $inputs)
    printf '{"latencies_ms": [%s]}\n' "$(printf '%s\n' "$times" | paste -sd, -)"
    ;;
*)
    printf '{"error": "a request that measure.sh does not know"}\n'
    ;;
esac
