#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
# Slurm tells each task its rank, and the loader finds it there: Loader(rank_from_env=True). The local rank chooses the
# GPU. For a run that goes on after preemption, train with state_dict as resume.py does.
srun --kill-on-bad-exit=1 python ranks.py "$@"
