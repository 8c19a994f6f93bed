"""Ranks as Ray tasks, on this machine's workers or a cluster's: each reads its share of every global batch.

    python ray_train.py PATH ..

The dataset pickles (as its paths, which every machine must have); a loader is made where it is used.
"""

import sys

import ray

import strait


@ray.remote(num_cpus=1)
def train(dataset: strait.Dataset, rank: int, world: int, cursor):
    """One rank: trains half an epoch, then says where the run stands."""
    loader = strait.Loader(dataset, batch_size=25, rank=rank, world=world, shuffle=True, seed=7)
    if cursor is not None:
        loader.resume(cursor)
    samples = []
    for batch in loader:
        samples += batch.samples
        if cursor is None and batch.step + 1 == len(loader) // 2:
            return samples, batch.cursor()
    return samples, None


def main() -> None:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    dataset = strait.Dataset(sys.argv[1:])
    # Two ranks begin, four go on: a cursor knows no world.
    first = ray.get([train.remote(dataset, rank, 2, None) for rank in range(2)])
    rest = ray.get([train.remote(dataset, rank, 4, first[0][1]) for rank in range(4)])
    samples = [sample for part, _ in first + rest for sample in part]
    print(f"{len(samples)} samples, {len(set(samples))} of them distinct, of {len(dataset)}")
    ray.shutdown()


if __name__ == "__main__":
    main()
