"""One process per GPU, as torchrun, srun and mpirun start them.

    torchrun --nproc-per-node 2 ranks.py PATH ..

Rank, world and device come from the launcher's environment. Every rank gets as many batches as the others.
"""

import os
import sys

import strait


def main() -> None:
    loader = strait.Loader(sys.argv[1:], batch_size=50, shuffle=True, seed=11, rank_from_env=True)
    samples = 0
    for batch in loader:
        samples += len(batch)
    print(f"rank {os.environ.get('RANK', '?')}: {len(loader)} steps, {samples} samples, on {loader.stats()['device']}")


if __name__ == "__main__":
    main()
