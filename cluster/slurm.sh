#!/bin/bash
# One evaluation under Slurm: a Ray head on the first node, a worker on every other, then the job.
#
#   sbatch --nodes=8 --gpus-per-node=8 cluster/slurm.sh --data '/data/shards/imagenet-{000000..000049}.tar' \
#       --models vit_base_patch16_224.orig_in21k_ft_in1k --out /data/runs/imagenet
#
# Run it from the checkout, whose .venv every node sees; --out is storage that every node sees. The
# same command again resumes. JOB names another job than jobs/eval_imagenet.py, PYTHON another python.
#SBATCH --job-name=fvit
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
#SBATCH --exclusive
#SBATCH --signal=B:TERM@120
#SBATCH --output=fvit-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
python=${PYTHON:-$PWD/.venv/bin/python}
job=${JOB:-jobs/eval_imagenet.py}
port=${PORT:-6379}
gpus=${SLURM_GPUS_ON_NODE:-0}
cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}
if [[ ! -x $python || ! -f $job ]]; then
    echo "error: $python or $job is not here; submit from the checkout, after uv sync" >&2
    exit 2
fi

# only who knows the token may join or submit; it ends with this job
export RAY_AUTH_MODE=token RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

started=()
stop() {
    if ((${#started[@]})); then
        kill "${started[@]}" 2>/dev/null || true
        wait 2>/dev/null || true
    fi
}
trap stop EXIT
trap 'exit 143' TERM INT

on_node() { # on_node NODE ARGUMENTS: ray start, in the background, on one node
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --overlap --nodelist="$node" \
        "$python" -m ray.scripts.scripts start --block --disable-usage-stats \
        --num-cpus="$cpus" --num-gpus="$gpus" "$@" &
    started+=($!)
}

on_node "$head" --head --node-ip-address="$address" --port="$port" \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID"
for ((i = 0; i < ${WAIT:-60}; i++)); do
    if "$python" -m ray.scripts.scripts status --address="$address:$port" >/dev/null 2>&1; then
        break
    fi
    sleep 2
done
for node in "${nodes[@]:1}"; do
    on_node "$node" --address="$address:$port"
done

# the job waits for nobody: a node that is late is used as soon as it is there
RAY_ADDRESS="$address:$port" "$python" "$job" \
    --compute.max-actors "$((gpus > 0 ? gpus * ${#nodes[@]} : cpus * ${#nodes[@]}))" "$@" &
driver=$!
started+=("$driver")
wait "$driver"
