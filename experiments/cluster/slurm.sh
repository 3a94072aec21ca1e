#!/bin/bash
# One run on several machines with GPUs under SLURM, one process for each GPU:
#
#   sbatch --nodes=4 experiments/cluster/slurm.sh dark_room --dir /shared/runs/dark_room
#
# Arguments are those of `ad-jax run`. The run directory has to be on a file system that all machines share, and ad-jax
# in an environment that all of them see. A template: it has not been run on a cluster (docs/scaling.md says what was).
#
#SBATCH --job-name=ad-jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=ad-jax-%j.log
set -euo pipefail

# Proxies are for the network outside; a process that looks for another one through them does not find it.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

# JAX reads rank, number and address from SLURM and takes for each process the GPU of its rank on the machine, so every
# process has to see all of them: no --gpus-per-task, no --gpu-bind. When one process fails, all are ended; a requeued
# job, or the same sbatch again, goes on from the last checkpoint.
srun --kill-on-bad-exit=1 --gpu-bind=none ad-jax run "$@" --processes auto
