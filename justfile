# What people do here. `just` lists it.

default:
    @just --list

# Everything that a submission must pass.
ci:
    bash .ci/run

# Format, then the lints that CI denies.
lint:
    cargo fmt
    cargo clippy --workspace --all-targets --features cli -- -D warnings

test:
    cargo test

# Many more seeds of the simulated pipeline than CI runs.
sim seeds="100000":
    STRAIT_SIM_SEEDS={{seeds}} cargo test --release --lib sims::pipeline

bench:
    cargo bench

# strait and fio by turns, as a Markdown table of ratios.
fio-pairs:
    scripts/fio-pairs
