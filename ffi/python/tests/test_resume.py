"""Epochs, states, and going on from them."""

import itertools
import json

import pytest

import strait


def loader_of(path, **options):
    return strait.Loader(path, **({"batch_size": 64, "device": "host", "shuffle": True, "seed": 9} | options))


def samples(batches):
    return [sample for batch in batches for sample in batch.samples]


def test_epochs_follow_each_other(rows):
    loader = loader_of(rows[0])
    first, second = samples(loader), samples(loader)
    assert first != second and sorted(first) == sorted(second) and loader.epoch == 2
    loader.set_epoch(0)
    assert samples(loader) == first
    loader.set_epoch(1)
    assert samples(itertools.islice(loader, 2)) == second[:128]
    # Left early: the epoch starts over.
    assert samples(loader) == second


@pytest.mark.parametrize("taken", [0, 1, 7, 15, 16])
def test_state_counts_delivered_batches(rows, taken):
    loader = loader_of(rows[0])
    whole = samples(loader) + samples(loader)
    loader.set_epoch(0)
    iteration = iter(loader)
    for _ in range(taken):
        next(iteration)
    state = json.loads(json.dumps(loader.state_dict()))
    again = loader_of(rows[0], batch_size=50)
    again.load_state_dict(state)
    assert again.epoch == (1 if taken == 16 else 0)
    # As training loops do it.
    again.set_epoch(again.epoch)
    rest = samples(again)
    start = min(64 * taken, 1000)
    assert rest == whole[start:1000] if taken < 16 else rest == whole[1000:]
    assert again.epoch == (2 if taken == 16 else 1)
    if taken < 16:
        assert samples(again) == whole[1000:]


def test_state_of_the_own_loader_in_mid_epoch(rows):
    loader = loader_of(rows[0])
    whole = samples(loader)
    loader.set_epoch(0)
    iteration = iter(loader)
    next(iteration)
    state = loader.state_dict()
    next(iteration)
    loader.load_state_dict(state)
    with pytest.raises(RuntimeError, match="another iteration|is over"):
        next(iteration)
    assert loader.state_dict() == state
    assert samples(loader) == whole[64:]


def test_cursor_of_a_batch(rows):
    loader = loader_of(rows[0])
    whole = samples(loader)
    loader.set_epoch(0)
    batch = next(iter(loader))
    again = loader_of(rows[0])
    again.resume(batch.cursor())
    assert samples(again) == whole[64:]


def test_another_epoch_gives_the_state_up(rows):
    loader = loader_of(rows[0])
    whole = samples(loader) + samples(loader)
    loader.set_epoch(0)
    next(iter(loader))
    state = loader.state_dict()
    loader.load_state_dict(state)
    loader.set_epoch(1)
    assert samples(loader) == whole[1000:]


def test_states_of_other_runs_are_refused(rows, pictures):
    state = loader_of(rows[0]).state_dict()
    with pytest.raises(strait.errors.ConfigError):
        loader_of(pictures[0]).load_state_dict(state)
    with pytest.raises(strait.errors.ConfigError, match="seed"):
        loader_of(rows[0], seed=10).load_state_dict(state)
    with pytest.raises(ValueError):
        loader_of(rows[0]).load_state_dict({"other": 1})


def test_budgets_have_no_length(pictures):
    loader = strait.Loader(pictures[0], device="host", budget={"samples_max": 8, "cost_max": 30_000})
    with pytest.raises(TypeError, match="budget"):
        len(loader)
    assert loader
    assert sorted(samples(loader)) == list(range(60))


def test_ranks_from_the_launcher(rows, monkeypatch):
    parts = []
    for rank in ("0", "1"):
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        parts += samples(loader_of(rows[0], rank_from_env=True, batch_size=50))
    assert sorted(parts) == list(range(1000))


def test_states_of_ranks_merge(rows):
    loader = loader_of(rows[0], bad_samples=(10, 10))
    batch = next(iter(loader))
    cursor = json.loads(batch.cursor())
    ours, theirs = (json.dumps(cursor | {"skipped": skipped}) for skipped in ([3, 5], [5, 900]))
    assert json.loads(strait.merge([ours, theirs]))["skipped"] == [3, 5, 900]
    state = strait.merge([loader.state_dict() | {"cursor": text} for text in (ours, theirs)])
    assert state["strait"] == 1 and json.loads(state["cursor"])["skipped"] == [3, 5, 900]
    loader.load_state_dict(state)
    left = samples(loader)
    assert not {3, 5, 900} & set(left) and len(left) <= 1000 - 64
    next(iter(loader))
    with pytest.raises(strait.Error):
        strait.merge([ours, loader.state_dict()["cursor"]])
    with pytest.raises(ValueError, match="no states"):
        strait.merge([])
