#!/usr/bin/env bash
# Stop what start-sge.sh started, delete its jobs, and remove the folder.
#
#     stop-sge.sh STATE_FOLDER
set -uo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

[ $# -eq 1 ] || fail "usage: ${0##*/} STATE_FOLDER"
[ -e "$1/environment" ] || exit 0
enter_state "$1"
set -a
. "$STATE/environment"
set +a

no_job_is_left() { [ -z "$(qstat -u '*')" ]; }

if runs sge_qmaster "$STATE/qmaster/qmaster.pid"; then
    timeout 10 qdel -f -u '*' >/dev/null 2>&1
    wait_until 10 no_job_is_left
fi
for file in "$STATE"/execd/*/execd.pid; do
    stop sge_execd "$file"
done
# Watchers of jobs, left when the master was lost.
for process in /proc/[0-9]*; do
    [ "$(cat "$process/comm" 2>/dev/null)" = sge_shepherd ] || continue
    grep -qaF "$STATE/" "$process/environ" 2>/dev/null && kill -KILL "${process#/proc/}"
done
stop sge_qmaster "$STATE/qmaster/qmaster.pid" 1 # it would save, for 8 s, what is removed here
rm -rf "$STATE"
