#!/usr/bin/env bash
# A Slurm cluster on this machine's loopback, for tests: two virtual nodes with two GPUs each that are only counted.
# Usage, as root: up.sh DIR (state and logs go there). The configuration has to be in /etc/slurm: Snakemake removes
# SLURM_CONF from the environment of its jobs. A cluster that is there already is left alone.
set -euo pipefail
state=$1
host=$(hostname -s)
cpus=8 # more than there are, as config_overrides allows: jobs share the cores
memory=$(awk '/^MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)

[[ $EUID -eq 0 ]] || { echo "up.sh: needs root, to install a configuration and to start daemons" >&2; exit 1; }
for command in slurmctld slurmd munged; do
    [[ -n $(PATH=$PATH:/usr/sbin type -P "$command") ]] ||
        { echo "up.sh: no $command (Debian: apt-get install slurm-wlm munge)" >&2; exit 1; }
done
if [[ -e /etc/slurm/slurm.conf ]] && ! grep -q '^ClusterName=glassbox-test$' /etc/slurm/slurm.conf; then
    echo "up.sh: /etc/slurm/slurm.conf belongs to another cluster" >&2
    exit 1
fi
"$(dirname "$0")/down.sh" # what an interrupted test has left

mkdir -p "$state"/{controller,nodes,log,dev} /etc/slurm
# slurmd takes only character devices for GPUs; these are as good as /dev/null.
for gpu in 0 1; do [[ -e $state/dev/gpu$gpu ]] || mknod "$state/dev/gpu$gpu" c 1 3; done
echo "NodeName=node[1-2] Name=gpu File=$state/dev/gpu[0-1]" > /etc/slurm/gres.conf
cat > /etc/slurm/slurm.conf << CONFIGURATION
ClusterName=glassbox-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is requeued waits until its old credential has expired; two minutes, if nothing is said.
AuthInfo=cred_expire=5
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/nodes/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/%n.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
# No database: the profile's slurm-status-command has to be squeue, and squeue has to remember jobs (MinJobAge).
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MinJobAge=7200
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=15
MessageTimeout=20
SlurmdParameters=config_overrides
DefMemPerCPU=200
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=16818 CPUs=$cpus RealMemory=$memory Gres=gpu:2
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=16819 CPUs=$cpus RealMemory=$memory Gres=gpu:2
PartitionName=gpu Nodes=node1,node2 Default=YES MaxTime=240 PriorityTier=10 PreemptMode=OFF
PartitionName=spot Nodes=node2 MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE
CONFIGURATION

install -d -o munge -g munge -m 0755 /run/munge
if ! munge -n > /dev/null 2>&1; then
    runuser -u munge -- /usr/sbin/munged
    cp /run/munge/munged.pid "$state/munged.pid" # so that down.sh ends the one that was started here, and no other
fi
echo "$state" > /etc/slurm/glassbox-test
/usr/sbin/slurmctld
for node in node1 node2; do /usr/sbin/slurmd -N "$node"; done
for _ in $(seq 100); do
    [[ $(sinfo -h -N -p gpu -t idle -o %N 2> /dev/null | wc -l) -eq 2 ]] && exec sinfo
    sleep 0.1
done
tail -n 20 "$state"/log/*.log >&2
exit 1
