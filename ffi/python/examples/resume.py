"""Goes on from a checkpoint after a crash: model and loader state are saved together.

    python resume.py CHECKPOINT.json PATH .. [--stop-after STEPS]

Prints the ids of the samples of each step, which are the same whether or not the run was cut in two.
"""

import argparse
import json
import os

import strait


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()

    loader = strait.Loader(given.paths, batch_size=100, shuffle=True, seed=3)
    done = 0
    if os.path.exists(given.checkpoint):
        with open(given.checkpoint) as file:
            saved = json.load(file)
        loader.load_state_dict(saved["loader"])
        done = saved["step"]
    for epoch in range(loader.epoch, given.epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            done += 1
            print(f"epoch {epoch} step {done}:", *batch.samples[:4], "..")
            # With the model's own state in a real run. Written aside first, so that a crash leaves the old one.
            with open(given.checkpoint + ".new", "w") as file:
                json.dump({"step": done, "loader": loader.state_dict()}, file)
            os.replace(given.checkpoint + ".new", given.checkpoint)
            if done == given.stop_after:
                return


if __name__ == "__main__":
    main()
