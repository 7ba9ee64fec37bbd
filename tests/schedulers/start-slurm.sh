#!/usr/bin/env bash
# Start a Slurm cluster of several nodes on this machine, all of it below one folder.
#
#     start-slurm.sh STATE_FOLDER [NODES [CPUS_PER_NODE [MB_PER_NODE]]]
#
# Needs root and the Debian packages slurm-wlm and munge; no systemd, cgroups or database.  Writes
# STATE_FOLDER/environment, lines of NAME=VALUE for its clients.  Starts only what does not run
# already, so that calling it again brings back a cluster that has lost a daemon.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

[ $# -ge 1 ] || fail "usage: ${0##*/} STATE_FOLDER [NODES [CPUS_PER_NODE [MB_PER_NODE]]]"
enter_state "$1"
nodes=${2:-3} cpus=${3:-4} memory=${4:-8000}
PATH=$PATH:/usr/sbin
need slurmctld "slurm-wlm munge"
need munged "slurm-wlm munge"

socket=$STATE/munge.socket
export SLURM_CONF=$STATE/slurm.conf
[ ${#socket} -le 100 ] || fail "$socket is longer than the 100 letters that a socket may have"

configure() {
    local port i
    port=$(find_free_ports $((nodes + 1)))
    mkdir -p "$STATE"/{log,run,controller} "$STATE/spool"
    (umask 077 && head --bytes=128 /dev/urandom >"$STATE/munge.key")
    {
        cat <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$socket
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/spool/%n
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmdPidFile=$STATE/run/slurmd-%n.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd-%n.log
# Nothing here needs cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
# Jobs over their memory are killed.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$STATE/log/jobs.txt
# Nodes may have more CPUs and memory than this machine.
SlurmdParameters=config_overrides
# Jobs start at once, and a lost node is noticed soon.
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=30
KillWait=3
InactiveLimit=0
CONF
        for i in $(seq "$nodes"); do
            echo "NodeName=node$i NodeHostname=$(hostname -s) NodeAddr=127.0.0.1" \
                "Port=$((port + i)) CPUs=$cpus RealMemory=$memory State=UNKNOWN"
        done
        echo "PartitionName=main Nodes=node[1-$nodes] Default=YES MaxTime=INFINITE DefaultTime=60"
    } >"$SLURM_CONF"
    echo "SLURM_CONF=$SLURM_CONF" >"$STATE/environment"
}

munge_answers() { munge --no-input --socket="$socket" | unmunge --socket="$socket"; }
controller_answers() { scontrol ping | grep -q UP; }
all_nodes_are_up() { # idle, or with jobs when this is not the first start
    [ "$(sinfo --noheader --Node --format='%t' | grep -cE '^(idle|mix|alloc)$')" -eq "$nodes" ]
}

[ -e "$STATE/environment" ] || configure
nodes=$(grep -c ^NodeName= "$SLURM_CONF")

if ! runs munged "$STATE/run/munged.pid"; then
    # --force: folders of tests may belong to others than root
    munged --force --socket="$socket" --key-file="$STATE/munge.key" \
        --pid-file="$STATE/run/munged.pid" --log-file="$STATE/log/munged.log" \
        --seed-file="$STATE/munge.seed" 9>&-
fi
wait_until 10 munge_answers || fail "munged does not answer; see $STATE/log/munged.log"

runs slurmctld "$STATE/run/slurmctld.pid" || slurmctld -f "$SLURM_CONF" 9>&-
wait_until 60 controller_answers || fail "slurmctld does not answer; see $STATE/log/slurmctld.log"

for i in $(seq "$nodes"); do
    runs slurmd "$STATE/run/slurmd-node$i.pid" && continue
    slurmd -N "node$i" -f "$SLURM_CONF" 9>&-
    scontrol update nodename="node$i" state=resume 2>/dev/null || true # if it was down
done
wait_until 60 all_nodes_are_up || fail "not all nodes came up: $(sinfo --Node --long)"
