# shellcheck shell=bash
# What cpu.sbatch and gpu.sbatch share: start a stage on all tasks, wait, and act on what the run directory says.
#
# SUMPIPE_PYTHON        the interpreter, if it is no argument; else .venv/bin/python or python
# SUMPIPE_LAUNCHER      srun, deepspeed or torchrun
# SUMPIPE_SRUN_OPTIONS  more options of srun, separated by blanks; quotes are not understood
# SUMPIPE_MASTER_ADDR   where the ranks meet, if not at the first node's name, which %h in it stands for (%h-ib)

set -u
# A site's or a user's SBATCH_EXPORT=NONE would go on to srun, whose tasks need the environment.
export SLURM_EXPORT_ENV=ALL
# A user's own choice of what squeue shows is not for the question below.
unset -v "${!SQUEUE_@}"
usage="STAGE RUN_DIR [DS_CONFIG [PYTHON]]"
stage=${1:?give $usage}
run_dir=${2:?give $usage}
ds_config=${3:-zero2}
python=${4:-${SUMPIPE_PYTHON:-}}
if [ -z "$python" ]; then
  python=python
  [ -x .venv/bin/python ] && python=$PWD/.venv/bin/python
fi

# This script runs on the first node, where rank 0 will be: a port that nobody listens on here will do. The
# range lies below that of outgoing connections; job and restart choose where to begin.
MASTER_ADDR=${SUMPIPE_MASTER_ADDR:-%h}
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=${MASTER_ADDR//%h/"$first_node"}
MASTER_PORT=$((20000 + (SLURM_JOB_ID * 8 + ${SLURM_RESTART_COUNT:-0}) % 12000))
while (exec 3<>"/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null; do
  MASTER_PORT=$((MASTER_PORT + 1))
done
export MASTER_ADDR MASTER_PORT

# srun does not take --cpus-per-task over from the job by itself (since Slurm 22.05). Its first failing task
# ends the others, which might wait for it in a collective.
cpus=${SLURM_CPUS_PER_TASK:-1}
per_node=${SLURM_NTASKS_PER_NODE:-1}
tasks=${SLURM_NTASKS:-$((SLURM_NNODES * per_node))}  # newer versions set it only where --ntasks was given
log_dir=$run_dir/logs/$stage/job-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}  # pipeline.slurm.verdict looks there
rank=(stages.rank "$stage" --run-dir "$run_dir" --ds-config "$ds_config" --log-dir "$log_dir")
case ${SUMPIPE_SRUN_OPTIONS:-} in
  *$'\n'*)
    echo "SUMPIPE_SRUN_OPTIONS: has more than one line; write all options in one, with blanks between" >&2
    exit 2
    ;;
esac
read -ra extra <<<"${SUMPIPE_SRUN_OPTIONS:-}"
# Signals reach every process of a task. One that comes before Python listens would end a rank, and look like
# a failure; a launcher would die of any, and leave its ranks. So they are ignored until the ranks listen.
# shellcheck disable=SC2016 # the task's own shell expands this
one_a_task=(srun --kill-on-bad-exit=1 --ntasks="$tasks" --cpus-per-task="$cpus" "${extra[@]}"
  bash -c 'trap "" TERM USR2; exec "$0" -m "$@"' "$python")
# The deepspeed launcher shows its ranks GPUs 0 to N-1, whichever ones Slurm gave to the node: so they are named.
# To Slurm a node is one task then: ranks are told what is theirs.
# shellcheck disable=SC2016 # the number of the node and its GPUs are known on the node
on_node='trap "" TERM USR2; SLURM_CPUS_PER_TASK='$cpus' exec "$0" -m "$1" --node_rank "$SLURM_NODEID" "${@:2}"'
# shellcheck disable=SC2016
on_node+=' ${CUDA_VISIBLE_DEVICES+--gpus "$CUDA_VISIBLE_DEVICES"}'
# Both counts are needed: srun ignores --ntasks-per-node alone.
one_a_node=(srun --kill-on-bad-exit=1 --ntasks="$SLURM_NNODES" --ntasks-per-node=1
  --cpus-per-task=$((cpus * per_node)) "${extra[@]}" bash -c "$on_node" "$python")

case ${SUMPIPE_LAUNCHER:-srun} in
  srun)
    command=("${one_a_task[@]}" "${rank[@]}")
    ;;
  deepspeed)
    mkdir -p "$run_dir/logs/slurm"
    hosts=$run_dir/logs/slurm/$SLURM_JOB_ID.hosts
    scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=$per_node/" >"$hosts"
    command=("${one_a_node[@]}" deepspeed.launcher.runner --hostfile "$hosts" --no_ssh
      --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" --no_local_rank -q --module "${rank[@]}")
    ;;
  torchrun)
    command=("${one_a_node[@]}" torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node "$per_node"
      --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" --max-restarts 0 -m "${rank[@]}")
    ;;
  *)
    echo "SUMPIPE_LAUNCHER=$SUMPIPE_LAUNCHER: choose srun, deepspeed or torchrun" >&2
    exit 2
    ;;
esac

# In the background, so that a trap runs at once. TERM and USR2 mean: save and stop. They go on to the tasks as
# USR2 through Slurm; sent to srun itself, they would kill its tasks.
# shellcheck disable=SC2317 # called by the trap
forward() {
  signalled=(--signalled)
  # Where Slurm is ending the tasks already this fails, and scancel would try again for a minute.
  timeout 4 scancel --signal=USR2 "$SLURM_JOB_ID" 2>/dev/null &
}
signalled=()
trap forward TERM USR2
echo "$(date -u +%FT%TZ) $stage on $tasks task(s) of $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0};" \
  "logs of the ranks: $log_dir"
"${command[@]}" &
step=$!
while kill -0 "$step" 2>/dev/null; do
  wait "$step"  # a signal ends this, too
done
trap '' TERM USR2
wait "$step"
code=$?

# Nodes of this job that no longer answer, one a line; none if this one does not either: then srun is at fault.
silent_nodes() {
  local answers
  answers=$(timeout -k 5 60 srun --overlap --mem=0 --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" \
    --ntasks-per-node=1 printenv SLURMD_NODENAME 2>/dev/null)
  [ -z "$answers" ] || scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -vxF "$answers"
}

# Slurm queues the job again, and ends this script, once it has noticed that a node is lost. Asked to do so before
# that, Slurm 22.05 takes an --exclusive job for one that can never run.
await_slurm() {
  local timeout
  timeout=$(scontrol show config | sed -n 's/^SlurmdTimeout *= *\([0-9]*\).*/\1/p')
  local deadline=$((SECONDS + 3 * ${timeout:-300} + 60))
  while [ "$SECONDS" -lt "$deadline" ] && [ -n "$(silent_nodes)" ]; do
    sleep 5
  done
}

# What Slurm says of this job, within so many seconds: state, preempted, reason, restarts; fails without an answer.
ask_slurm() {
  IFS='|' read -r state preempted reason restarts _ < <(timeout -k 5 "$1" squeue --all --noheader \
    --jobs="$SLURM_JOB_ID" --Format='State:|,PreemptTime:|,Reason:|,RestartCnt:|')
  [ -n "$state" ]
}
ours=${SLURM_RESTART_COUNT:-0}

# Whether Slurm, by its last answer, preempts this job, or has queued it again by itself.
is_taken() {
  [[ "${restarts:-$ours}" != "$ours" || $preempted == [0-9]* ]]
}

# Queue this job again, unless Slurm is ending it for a reason: cancelled, or queued again by itself. Past its time
# limit, or preempted where Slurm does not queue it again (PreemptMode=CANCEL), it has nobody else to do so.
# Slurm may be busy or restarting: it is asked until it answers, or the job's time is up. It may refuse for good.
return_to_queue() {
  local refusals=0
  while [ "$refusals" -lt 30 ]; do
    if ! ask_slurm 60; then
      command -v squeue >/dev/null || refusals=$((refusals + 1))  # it will never answer
      echo "sumpipe: no answer of squeue on job $SLURM_JOB_ID; asked again in 10 s, until there is one"
      sleep 10
      continue
    fi
    if [ "${restarts:-$ours}" != "$ours" ]; then
      echo "sumpipe: job $SLURM_JOB_ID was queued again by Slurm (restart $restarts)"
      return
    fi
    case $state:$reason:$preempted in
      RUNNING:* | SIGNALING:* | *:TimeLimit:* | *:[0-9]*)
        echo "sumpipe: job $SLURM_JOB_ID goes back to the queue"
        timeout -k 5 60 scontrol requeue "$SLURM_JOB_ID"
        case $? in
          0) return ;;
          124 | 137) ;;  # no answer is no refusal
          *) refusals=$((refusals + 1)) ;;
        esac
        echo "sumpipe: scontrol did not queue job $SLURM_JOB_ID again (refused $refusals of 30 times, one each 10 s)"
        sleep 10
        ;;
      *)
        echo "sumpipe: job $SLURM_JOB_ID is not queued again here, as Slurm is ending it ($state, $reason);" \
          "what it has saved stays"
        return
        ;;
    esac
  done
  echo "sumpipe: Slurm did not queue job $SLURM_JOB_ID again; what it has saved stays: submit again" >&2
}

# Any code but these is no verdict: Python or the run directory could not be reached, as where a file server starts.
ask_verdict() {
  local pause
  for pause in 10 20 40 ''; do
    "${ask[@]}" "$run_dir" "$stage" "$code" "$@"
    verdict=$?
    case $verdict in 0 | 4 | 75) return ;; esac
    [ -z "$pause" ] || echo "sumpipe: no verdict on job $SLURM_JOB_ID (code $verdict); asked again in $pause s"
    sleep "${pause:-0}"
  done
  echo "sumpipe: no verdict on job $SLURM_JOB_ID, so it counts as failed; submit again" >&2
  verdict=1
}

# Codes of srun do not tell a preemption from a failure (--kill-on-bad-exit); the run directory does. Nor does it
# tell a rank that failed from one that lost its peers with a node.
ask=("$python" -m pipeline.slurm.verdict "${signalled[@]}")
[ "$code" -eq 0 ] || ! ask_slurm 5 || ! is_taken || ask+=(--taken)
ask_verdict
if [ "$verdict" -eq 4 ] && [ "$SLURM_NNODES" -gt 1 ]; then
  mapfile -t silent < <(silent_nodes)
  if [ ${#silent[@]} -gt 0 ]; then
    ask_verdict "${silent[@]}"
    trap - TERM USR2
    [ "$verdict" -ne 75 ] || await_slurm
  fi
fi
[ "$verdict" -ne 75 ] || return_to_queue
[ "$verdict" -ne 4 ] || verdict=1
exit "$verdict"
