#!/usr/bin/env bash
# A Slurm of two nodes on this one machine, on loopback, for tests/cluster. Needs: apt-get install slurm-wlm munge
#
#   slurm_loopback.sh start FOLDER PORT    starts munged, slurmctld and two slurmd; FOLDER/slurm.conf is the SLURM_CONF
#   slurm_loopback.sh stop FOLDER          cancels the jobs and ends what it started, by process id, and nothing else
#   slurm_loopback.sh down|up FOLDER NODE  ends or starts one slurmd: a node that fails
#
# As root or as an ordinary user; ports PORT to PORT+2 are used; nothing under /etc is read or written.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
what=${1:?start, stop, down or up} folder=${2:?a folder} more=${3:-}
export SLURM_CONF=$folder/slurm.conf

is_ours() { # PIDFILE PROGRAM: process ids are used again, so a pid counts only if it is that program
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$2"
}

end() { # PIDFILE PROGRAM [SIGNAL]
  local pid
  if is_ours "$1" "$2"; then
    pid=$(cat "$1")
    kill "-${3:-TERM}" "$pid" 2>/dev/null || true
    for _ in $(seq 50); do is_ours "$1" "$2" || break; sleep 0.1; done
    ! is_ours "$1" "$2" || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$1"
}

wait_until() { # SECONDS WHAT COMMAND...
  local last=$((SECONDS + $1)) name=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $last ] || { echo "$name did not come up; its log is in $folder" >&2; return 1; }
    sleep 0.2
  done
}

both_idle() { [ "$(sinfo -h -N -p main -o '%t' | grep -c '^idle$')" = 2 ]; }

start() {
  mkdir -p "$folder"/{state,spool-node1,spool-node2,run}
  chmod 755 "$folder" "$folder/run"
  [ -s "$folder/munge.key" ] || (umask 077; head -c 128 /dev/urandom >"$folder/munge.key")
  local me host port=$1
  me=$(id -un) host=$(hostname -s)
  cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
# A requeued job waits until its credential has expired, 120 s by default.
AuthInfo=socket=$folder/run/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
# Nodes may claim more than this machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmdTimeout=20
KillWait=5
MinJobAge=3600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4 RealMemory=8000 State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=60 DefaultTime=10 PriorityTier=1 GraceTime=10
# Its jobs take the nodes of those in main, which are then requeued.
PartitionName=urgent Nodes=node1,node2 MaxTime=60 DefaultTime=10 PriorityTier=10 PreemptMode=OFF
CONF
  is_ours "$folder/run/munged.pid" munged || munged --force --key-file="$folder/munge.key" \
    --socket="$folder/run/munge.socket" --pid-file="$folder/run/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munge.seed" 2>>"$folder/munged.log"
  wait_until 20 munged munge -S "$folder/run/munge.socket" -n
  is_ours "$folder/run/slurmctld.pid" slurmctld || slurmctld
  wait_until 60 slurmctld scontrol ping
  for node in node1 node2; do is_ours "$folder/run/slurmd-$node.pid" slurmd || slurmd -N $node; done
  wait_until 60 "a node" both_idle
}

stop() {
  if is_ours "$folder/run/slurmctld.pid" slurmctld; then
    # The processes of a job end with their slurmd's help, so the jobs go first.
    scancel --signal=KILL --full --user="$(id -un)" 2>/dev/null || true
    scancel --user="$(id -un)" 2>/dev/null || true
    for _ in $(seq 50); do [ -n "$(squeue -h 2>/dev/null)" ] || break; sleep 0.2; done
  fi
  for node in node1 node2; do end "$folder/run/slurmd-$node.pid" slurmd; done
  end "$folder/run/slurmctld.pid" slurmctld
  end "$folder/run/munged.pid" munged
}

case $what in
  start) start "${more:?a port}" ;;
  stop) stop ;;
  down) end "$folder/run/slurmd-$more.pid" slurmd KILL ;;
  up) slurmd -N "$more" ;;
esac
