"""Trains a tiny language model on windows of tokens, straight out of the loader.

    python train_tokens.py TOKENS.bin --dtype u16 --steps 50
"""

import argparse

import torch

import strait


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--dtype", help="of headerless files: u16, i32 ..")
    parser.add_argument("--window", type=int, default=64, help="tokens that the model sees")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--vocabulary", type=int, default=256)
    given = parser.parse_args()

    torch.manual_seed(0)
    # A window is one token longer than what the model sees: the targets are its tokens, one further.
    loader = strait.Loader(
        strait.Dataset(given.paths, dtype=given.dtype), batch_size=given.batch,
        windows=(given.window + 1, given.window), shuffle=True, seed=17,
    )
    device = "cuda" if loader.stats()["device"].startswith("cuda") else "cpu"
    model = torch.nn.Sequential(
        torch.nn.Embedding(given.vocabulary, 32), torch.nn.Linear(32, 64), torch.nn.ReLU(),
        torch.nn.Linear(64, given.vocabulary),
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = 0
    while step < given.steps:
        for batch in loader:
            tokens = batch["tokens"].torch().long()
            logits = model(tokens[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step in (1, given.steps) or step % 20 == 0:
                print(f"epoch {batch.epoch} step {step} loss {loss.item():.3f}")
            if step == given.steps:
                break


if __name__ == "__main__":
    main()
