#!/bin/bash
# A batch on Slurm: one Ray node on each machine of the allocation, the head on the first.
#
#   sbatch configs/cluster/slurm.sh sweep.yaml          # on storage that all machines see
#   sbatch configs/cluster/slurm.sh resume runs/sweep   # when the time was up
#
#SBATCH --job-name=autoprune
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

[ $# -ge 1 ] || { echo "give a sweep's YAML, or: resume RUN" >&2; exit 2; }
# source .venv/bin/activate      # where autoprune is installed, on every machine

port=${RAY_PORT:-6379}
head=$(hostname --ip-address | awk '{print $1}')
machines=$((SLURM_JOB_NUM_NODES - 1))

# Whoever has the token may run code on these machines: it is made for this job, and srun hands
# the environment on.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(openssl rand -hex 32)
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
# Locks that keep evaluations from measurements are of one machine: on its own disk.
export AUTOPRUNE_LOCKS="/tmp/autoprune-locks-$SLURM_JOB_ID"

nodes=()
end() {
  # Ray's processes end with their srun.
  kill "${nodes[@]}" 2>/dev/null || true
  wait
}
trap end EXIT

srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" \
  ray start --head --node-ip-address="$head" --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --include-dashboard=false --block &
nodes+=($!)

for _ in $(seq 60); do
  ray status --address "$head:$port" >/dev/null 2>&1 && break
  sleep 2
done

if [ "$machines" -gt 0 ]; then
  srun --overlap --nodes="$machines" --ntasks="$machines" --exclude="$SLURMD_NODENAME" \
    ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
  nodes+=($!)
fi

# Searches begin on the machines that are there, and go to the others as they join.
autoprune batch "$@" --ray-address "$head:$port" &
batch=$!
# Two minutes before the time is up Slurm asks to end; what is finished is kept for `resume`.
trap 'kill "$batch" 2>/dev/null || true' TERM
status=0
wait "$batch" || status=$?
# A signal ends the wait before the batch has ended.
while kill -0 "$batch" 2>/dev/null; do wait "$batch" || status=$?; done
exit "$status"
