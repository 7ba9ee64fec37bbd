#!/usr/bin/env bash
# Stop what start-slurm.sh started, cancel its jobs, and remove the folder.
#
#     stop-slurm.sh STATE_FOLDER
set -uo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

[ $# -eq 1 ] || fail "usage: ${0##*/} STATE_FOLDER"
[ -e "$1/environment" ] || exit 0
enter_state "$1"
export SLURM_CONF=$STATE/slurm.conf

no_job_is_left() { [ -z "$(squeue --noheader)" ]; }

if runs slurmctld "$STATE/run/slurmctld.pid"; then
    timeout 10 scancel --user=root --full --signal=KILL
    timeout 10 scancel --user=root
    wait_until 10 no_job_is_left
fi
for file in "$STATE"/run/slurmd-*.pid; do
    stop slurmd "$file"
done
# Watchers of jobs, left when the controller was lost; each has the log of its node open.
for process in /proc/[0-9]*; do
    [ "$(cat "$process/comm" 2>/dev/null)" = slurmstepd ] || continue
    ls -l "$process/fd" 2>/dev/null | grep -qF "$STATE/" && kill -KILL "${process#/proc/}"
done
stop slurmctld "$STATE/run/slurmctld.pid"
stop munged "$STATE/run/munged.pid"
rm -rf "$STATE"
