#!/usr/bin/env bash
# The machine room of cluster.py. Everything started here ends when the input of `controller` does,
# so nothing outlives the tests, however they end.
#
#   BASE=DIR NODES="NAME ..." cluster.sh isolated|loopback    (see Cluster.start)
#
# Reads "start INDEX" and "kill INDEX" from its input; prints one line when it is up and after each.
# "cluster.sh node INDEX" is the first process of an isolated node.
set -euo pipefail
conf=$BASE/slurm.conf # not exported: only what belongs to the cluster has it in its environment
read -ra names <<<"$NODES"
first_process=() # of each isolated node, by index

# --- isolated: a network of our own, and namespaces for each node ---

private_network() {
  hostname controller
  mount --bind "$BASE/hosts" /etc/hosts
  ip link set lo up
  ip link add br0 type bridge
  ip addr add 10.77.0.1/24 dev br0
  ip link set br0 up
  exec 9</proc/self/ns/net # nodes reach this network through it
}

node() {
  hostname "${names[$1]}"
  mount -t tmpfs tmpfs /dev/shm # as on a real node, not shared
  ip link add eth0 type veth peer name "veth$1" netns /proc/self/fd/9
  nsenter --net=/proc/self/fd/9 ip link set "veth$1" master br0 up
  ip link set lo up
  ip addr add "10.77.0.$((10 + $1))/24" dev eth0
  ip link set eth0 up
  SLURM_CONF=$conf slurmd -N "${names[$1]}" 9<&-
  sleep infinity &
  wait # and reap what daemons leave
}

start_isolated() {
  unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc \
    bash "$0" node "$1" >>"$BASE/log/node$1.out" 2>&1 </dev/null 3>&- &
  first_process[$1]=$!
}

# As a power cut: the link goes first, so that no connection is closed in good order; then the node's
# first process, with which the kernel kills all others.
kill_isolated() {
  local unshare=${first_process[$1]}
  ip link del "veth$1"
  kill -KILL "$(tr -d ' ' <"/proc/$unshare/task/$unshare/children")"
  wait "$unshare" || true
}

# --- loopback: several slurmd side by side, known by their environment ---

# The processes of this cluster, or of one of its nodes.
ours() {
  { grep -lzxFs "SLURM_CONF=$conf" /proc/[0-9]*/environ || true; } |
    { if [ $# -gt 0 ]; then xargs -r grep -lzxFs "SLURMD_NODENAME=$1" || true; else cat; fi; } |
    cut -d/ -f3
}

# Again and again, because a process may start another one meanwhile.
kill_ours() {
  local pids
  for _ in {1..100}; do
    mapfile -t pids < <(ours "$@")
    [ ${#pids[@]} -gt 0 ] || return 0
    kill -KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.05
  done
  return 1
}

start_loopback() { SLURM_CONF=$conf SLURMD_NODENAME=${names[$1]} slurmd -N "${names[$1]}" 3>&-; }
kill_loopback() { kill_ours "${names[$1]}"; }

# --- both ---

# Until it listens: a slurmd or a command that comes too early loses seconds in retries.
start_controller() {
  SLURM_CONF=$conf munged --key-file="$BASE/munge/key" --socket="$BASE/munge/socket" --pid-file="$BASE/munge/pid" \
    --log-file="$BASE/munge/log" --seed-file="$BASE/munge/seed" 3>&-
  SLURM_CONF=$conf slurmctld -D -i >>"$BASE/log/slurmctld.out" 2>&1 3>&- &
  local pid=$! address port
  address=$(sed -n 's/^SlurmctldHost=.*(\(.*\))$/\1/p' "$conf")
  port=$(sed -n 's/^SlurmctldPort=//p' "$conf")
  until (: >"/dev/tcp/$address/$port") 2>/dev/null; do
    kill -0 "$pid" # a slurmctld that refuses its configuration is gone
    sleep 0.02
  done
}

controller() {
  if [ "$1" = isolated ]; then private_network; else trap kill_ours EXIT; fi
  start_controller
  for index in "${!names[@]}"; do "start_$1" "$index"; done
  echo ok >&3
  while read -r command index; do
    "${command}_$1" "$index"
    echo ok >&3
  done
}

if [ "$1" = node ]; then
  node "$2"
else
  exec 3>&1 >>"$BASE/log/controller.out" 2>&1 # the answers stay apart from all other output
  controller "$1"
fi
