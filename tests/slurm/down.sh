#!/usr/bin/env bash
# Ends the cluster that up.sh has started, its jobs with it, and removes its configuration.
set -euo pipefail
[[ -e /etc/slurm/glassbox-test ]] || exit 0
state=$(cat /etc/slurm/glassbox-test)
# Killed, because nobody is left to kill what does not heed SIGTERM once the daemons are gone.
scancel --user root --full --signal KILL 2> /dev/null || true
scancel --user root 2> /dev/null || true
for _ in $(seq 200); do
    [[ -n $(squeue -h 2> /dev/null) ]] || break
    sleep 0.1
done
scontrol shutdown 2> /dev/null || true
for daemon in slurmctld node1 node2 munged; do
    pid=$(cat "$state/$daemon.pid" 2> /dev/null) || continue
    # A number may belong to somebody else by now.
    [[ $(cat "/proc/$pid/comm" 2> /dev/null) == @(slurmctld|slurmd|munged) ]] || continue
    for _ in $(seq 50); do
        kill -0 "$pid" 2> /dev/null || break
        [[ $daemon != munged ]] || kill "$pid"
        sleep 0.1
    done
    kill -9 "$pid" 2> /dev/null || true
done
rm -f /etc/slurm/{slurm.conf,gres.conf,glassbox-test}
