#!/usr/bin/env bash
# A search on the nodes of a Slurm job: starts Ray on them, behind a token of its own, and runs archsearch against it.
#
#   sbatch --nodes=4 --gpus-per-node=8 search/clusters/slurm.sh my-space.yaml --hours 11
#
# What comes after the script's name goes to `archsearch run`. Set the knobs here, or in the environment of sbatch.
# archsearch must be importable on every node: activate its environment before sbatch, or in SETUP.
#
#SBATCH --job-name=archsearch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:INT@120
#SBATCH --requeue
set -euo pipefail

# ---- knobs -----------------------------------------------------------------------------------------------------------
SETUP=${SETUP:-:}                              # a command for every node, as ". /shared/archsearch/bin/activate"
RUNS=${RUNS:-$PWD/runs}                        # folder of searches, on a file system that all nodes share
NAME=${NAME:-slurm-${SLURM_JOB_ID:?run this with sbatch}}  # of the search; give the same again to go on with it
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 10000))} # of Ray on the first node; jobs that share nodes need different ones
RAY_START_OPTIONS=${RAY_START_OPTIONS:-}       # more words for every `ray start`
# ----------------------------------------------------------------------------------------------------------------------

read -r -a options <<<"$RAY_START_OPTIONS"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))') # nobody else on these nodes may use it
export RAY_AUTH_TOKEN

started=()
# shellcheck disable=SC2329 # the trap calls it
finish() {
    trap - EXIT
    for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
    wait
}
trap finish EXIT

on() { # NODE WORDS...: one task on a node of the job, in the background
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --overlap --nodelist="$node" bash -c "$SETUP"' && exec "$@"' ray "$@" &
    started+=($!)
}

has=("--num-cpus=${SLURM_CPUS_PER_TASK:-1}" "--num-gpus=${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats "${options[@]}")
address=$(srun --nodes=1 --ntasks=1 --overlap --nodelist="${nodes[0]}" hostname -I | cut -d' ' -f1):$PORT

eval "$SETUP"
on "${nodes[0]}" ray start --block --head --node-ip-address="${address%:*}" --port="$PORT" --include-dashboard=false "${has[@]}"
for _ in $(seq 120); do
    ray health-check --address "$address" 2>/dev/null && break
    kill -0 "${started[0]}" 2>/dev/null || { echo "Ray does not start on ${nodes[0]}" >&2; exit 1; }
    sleep 1
done
for node in "${nodes[@]:1}"; do
    on "$node" ray start --block --address="$address" "${has[@]}"
done

again=()
if [[ -d $RUNS/$NAME ]]; then again=(--resume); fi # requeued, or submitted again: on from where it stands

# Slurm sends INT two minutes before the time is up: the search ends cleanly, and --resume goes on.
archsearch run "$@" --address "$address" --runs "$RUNS" --name "$NAME" "${again[@]}" &
search=$!
trap 'kill -INT "$search" 2>/dev/null || true' INT TERM
code=0
wait "$search" || code=$?
if kill -0 "$search" 2>/dev/null; then code=0; wait "$search" || code=$?; fi # the first wait was cut short by a signal
exit "$code"
