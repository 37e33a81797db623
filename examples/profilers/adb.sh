#!/bin/sh
# A program for autoprune's `command` profiler that measures on an Android device over adb.
#
#   adb.sh RUNNER [ARGUMENT ...]
#
# RUNNER is a program on the device, for example /data/local/tmp/run_onnx; it is called there as in
# measure.sh. Networks and inputs are pushed once, as their names are hashes of what is in them.
# $ANDROID_SERIAL tells adb which device; $AUTOPRUNE_ADB_FOLDER where to keep files there.
set -eu

folder=${AUTOPRUNE_ADB_FOLDER:-/data/local/tmp/autoprune}
request=$(cat)
value() { printf '%s\n' "$request" | sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p"; }

# Prints where a file is on the device, after pushing it if it is not there yet. It is pushed under
# another name first, so that half a file never has the name of a whole one.
there() {
    name=$folder/$(basename "$1")
    if ! adb shell "test -e $name" </dev/null; then
        adb push "$1" "$name.part" </dev/null >&2
        adb shell "mv $name.part $name" </dev/null >&2
    fi
    printf '%s' "$name"
}

case $(value request) in
device)
    printf '{"name": "%s", "runtime": "%s", "runtime_version": "%s"}\n' \
        "$(adb shell getprop ro.product.model </dev/null | tr -d '\r')" "$(basename "$1")" \
        "$(adb shell "$* --version" </dev/null | tr -d '\r')"
    ;;
run)
    adb shell "mkdir -p $folder" </dev/null >&2
    model=$(there "$(value model)")
    inputs=
    for path in $(printf '%s\n' "$request" | grep -o '"path": "[^"]*"' | cut -d'"' -f4); do
        inputs="$inputs $(there "$path")"
    done
    times=$(adb shell "$* $model $(value warmup) $(value runs) $inputs" </dev/null)
    printf '{"latencies_ms": [%s]}\n' "$(printf '%s\n' "$times" | tr -d '\r' | paste -sd, -)"
    ;;
*)
    printf '{"error": "a request that adb.sh does not know"}\n'
    ;;
esac
