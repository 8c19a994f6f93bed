"""Fits a line to rows of an .npy file with JAX: the last column is what the others predict.

    python train_jax.py ROWS.npy
"""

import sys

import jax
import jax.numpy as jnp

import strait


@jax.jit
def step(weights, rows):
    """One step of gradient descent; the weights and the loss."""
    def loss(weights):
        return jnp.mean((rows[:, :-1] @ weights - rows[:, -1]) ** 2)

    value, gradient = jax.value_and_grad(loss)(weights)
    return weights - 0.1 * gradient, value


def main() -> None:
    loader = strait.Loader(sys.argv[1:], batch_size=64, shuffle=True, policy="drop")
    weights = None
    for _ in range(10):
        for batch in loader:
            rows = batch["array"].jax()
            if weights is None:
                weights = jnp.zeros(rows.shape[1] - 1)
            weights, loss = step(weights, rows)
        # JAX works in the background: it is done with the batch once its result is there.
        print(f"epoch {batch.epoch} loss {loss.item():.5f}")


if __name__ == "__main__":
    main()
