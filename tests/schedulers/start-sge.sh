#!/usr/bin/env bash
# Start a Grid Engine with one host on this machine, all of it below one folder.
#
#     start-sge.sh STATE_FOLDER [SLOTS]
#
# Needs root and the Debian packages gridengine-master, gridengine-exec and gridengine-client.  Writes
# STATE_FOLDER/environment, lines of NAME=VALUE for its clients.  Starts only what does not run
# already, so that calling it again brings back a cluster that has lost a daemon.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

[ $# -ge 1 ] || fail "usage: ${0##*/} STATE_FOLDER [SLOTS]"
enter_state "$1"
slots=${2:-12}
programs=/usr/lib/gridengine
defaults=/usr/share/gridengine
host=$(hostname -s)
PATH=$PATH:$programs
for command in sge_qmaster sge_execd qconf; do
    need "$command" "gridengine-master gridengine-exec gridengine-client"
done
getent hosts "$host" >/dev/null || fail "the name of this machine, $host, is not in /etc/hosts"

write_environment() {
    local port
    port=$(find_free_ports 2)
    cat >"$STATE/environment" <<ENVIRONMENT
SGE_ROOT=$STATE/root
SGE_CELL=default
SGE_ARCH=lx-amd64
SGE_QMASTER_PORT=$port
SGE_EXECD_PORT=$((port + 1))
ENVIRONMENT
}

# Print the names of this machine in one line, the one to be used first.
list_names() {
    local others
    others=$(getent hosts 127.0.0.1 | cut -d' ' -f2-
        sed -n 's/#.*//; s/^127[0-9.]*[[:space:]]//p' /etc/hosts
        echo localhost
        hostname)
    echo "$host" $(tr -s ' \t' '\n' <<<"$others" | sort -u | grep -vxF -e "$host" -e '')
}

configure() {
    local common=$SGE_ROOT/default/common folder
    mkdir -p "$common" "$STATE"/{spool,qmaster/job_scripts,execd,log,tmp,configuration}
    ln -s "$defaults/util" "$SGE_ROOT/util"
    for folder in bin lib utilbin; do
        mkdir -p "$SGE_ROOT/$folder"
        ln -s "$programs" "$SGE_ROOT/$folder/$SGE_ARCH"
    done
    echo "$host" >"$common/act_qmaster"
    list_names >"$common/host_aliases"
    cat >"$common/bootstrap" <<BOOTSTRAP
admin_user              none
default_domain          none
ignore_fqdn             true
spooling_method         berkeleydb
spooling_lib            libspoolb
spooling_params         $STATE/spool
binary_path             /usr/sbin
qmaster_spool_dir       $STATE/qmaster
security_mode           none
listener_threads        2
worker_threads          2
scheduler_threads       1
BOOTSTRAP
    # Root may submit jobs, no mail is sent, and the ends of jobs are noticed soon.  The shells of jobs
    # read no profile: root's may wait for a minute, as that of pyenv does for a lock that a job left
    # behind when it was killed.
    change "$defaults/default-configuration" execd_spool_dir "$STATE/execd" min_uid 0 min_gid 0 \
        load_report_time 00:00:02 max_unheard 00:00:20 mailer /bin/true administrator_mail none \
        login_shells none |
        sed 's/flush_time=[0-9:]*/flush_time=00:00:01/' >"$STATE/configuration/global"
    spoolinit berkeleydb libspoolb "$STATE/spool" init
    local spooldefaults=$programs/spooldefaults
    "$spooldefaults" configuration "$STATE/configuration/global"
    "$spooldefaults" complexes "$defaults/util/resources/centry"
    "$spooldefaults" usersets "$defaults/util/resources/usersets"
    "$spooldefaults" managers root
}

change() { # FILE [NAME VALUE]...: print a configuration with other values
    local file=$1 script=
    shift
    while [ $# -gt 0 ]; do
        script+="s|^$1 .*|$1 $2|;"
        shift 2
    done
    sed "$script" "$file"
}

configure_queue() {
    local folder=$STATE/configuration
    qconf -ah "$host"
    qconf -as "$host"
    printf 'hostname %s\nload_scaling NONE\ncomplex_values NONE\nuser_lists NONE\n' "$host" >"$folder/host"
    printf '%s NONE\n' xuser_lists projects xprojects usage_scaling report_variables >>"$folder/host"
    qconf -Ae "$folder/host"
    printf 'group_name @allhosts\nhostlist %s\n' "$host" >"$folder/hosts"
    qconf -Ahgrp "$folder/hosts"
    qconf -Ap "$defaults/util/resources/pe/smp"
    # load_thresholds: a busy machine shall take jobs all the same
    change <(qconf -sq) qname all.q hostlist @allhosts slots "$slots" load_thresholds NONE \
        pe_list smp shell /bin/bash rerun FALSE tmpdir "$STATE/tmp" notify 00:00:05 >"$folder/queue"
    qconf -Aq "$folder/queue"
    change <(qconf -ssconf) schedule_interval 0:0:1 flush_submit_sec 1 flush_finish_sec 1 \
        job_load_adjustments NONE load_adjustment_decay_time 0:0:0 >"$folder/scheduler"
    qconf -Msconf "$folder/scheduler"
}

master_answers() { timeout 5 qconf -sss; }
queue_is_up() { # its load is known and no letter stands for a fault
    qstat -f | awk '$1 ~ /^all.q@/ { up = $4 != "-NA-" && $6 == "" } END { exit !up }'
}

execd_runs() { # it names its folder by one of the names of this machine
    local file
    for file in "$STATE"/execd/*/execd.pid; do
        runs sge_execd "$file" && return
    done
    return 1
}

[ -e "$STATE/environment" ] || write_environment
set -a
. "$STATE/environment"
set +a
if [ ! -e "$STATE/configured" ]; then
    rm -rf "$STATE"/{root,spool,qmaster,execd}
    mkdir -p "$STATE/log"
    configure >"$STATE/log/configure.log" 2>&1 || fail "see $STATE/log/configure.log"
    touch "$STATE/configured"
fi

if ! runs sge_qmaster "$STATE/qmaster/qmaster.pid"; then
    sge_qmaster 9>&- >"$STATE/log/qmaster.log" 2>&1 || fail "see $STATE/log/qmaster.log"
fi
wait_until 60 master_answers || fail "sge_qmaster does not answer; see $STATE/qmaster/messages"

if [ ! -e "$STATE/has_queue" ]; then
    configure_queue >"$STATE/log/queue.log" 2>&1 || fail "see $STATE/log/queue.log"
    touch "$STATE/has_queue"
fi

if ! execd_runs; then
    rm -f "$STATE"/execd/*/execd.pid
    sge_execd 9>&- >"$STATE/log/execd.log" 2>&1 || fail "see $STATE/log/execd.log"
fi
wait_until 60 queue_is_up || fail "all.q did not come up; see $STATE/qmaster/messages"
