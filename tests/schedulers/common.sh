# Functions of the scripts beside this one, which set STATE: the folder of all that a scheduler writes.

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

enter_state() { # FOLDER: set STATE to it, and wait until no other script works there
    [ "$(id -u)" -eq 0 ] || fail "must run as root"
    mkdir -p "$1"
    chmod 755 "$1"
    STATE=$(cd -P -- "$1" && pwd)
    exec 9>"$STATE/script.lock"
    flock --wait 120 9 || fail "another script has held $STATE/script.lock for two minutes"
}

need() { # COMMAND DEBIAN_PACKAGES
    [ -n "$(type -P "$1")" ] || fail "$1 is not installed: apt-get install $2"
}

wait_until() { # SECONDS COMMAND...: whether the command succeeds in time
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

# Numbers of processes are used again: a recorded one is ours only if name and folder fit as well.
runs() { # NAME PID_FILE
    local pid
    pid=$(cat "$2" 2>/dev/null) && [ -n "$pid" ] || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] || return 1
    grep -qaF "$STATE/" "/proc/$pid/cmdline" "/proc/$pid/environ" 2>/dev/null
}

has_ended() { # PID; dead processes that nobody waited for have no command line
    ! grep -qa . "/proc/$1/cmdline"
}

stop() { # NAME PID_FILE [SECONDS]: kill what has not ended after so many
    local pid
    runs "$1" "$2" || return 0
    pid=$(cat "$2")
    kill -TERM "$pid"
    wait_until "${3:-10}" has_ended "$pid" || kill -KILL "$pid"
}

# Ports that systems give to outgoing connections begin at 32768.
find_free_ports() { # N: print the first of N ports in a row that nobody listens at
    local first i
    for _ in $(seq 100); do
        first=$(shuf --input-range=20000-32000 --head-count=1)
        for i in $(seq "$first" $((first + $1 - 1))); do
            # Whoever connects has found a listener.
            (exec 3<>"/dev/tcp/127.0.0.1/$i") 2>/dev/null && continue 2
        done
        echo "$first"
        return
    done
    fail "found no $1 free ports in a row between 20000 and 32000"
}
