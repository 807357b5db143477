"""Between two log lines all is on the device: one program, compiled once, that moves nothing to or from the host."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import LOOP, STEP, inputs_and_data, score

from music_map.training.checkpoint import CheckpointStore
from music_map.training.loop import fit
from music_map.training.metrics_log import MetricsLog
from music_map.training.runner import OneDevice
from music_map.training.step import train_steps

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


def test_the_counter_sees_a_compilation():
    before = len(COMPILED)
    jax.block_until_ready(jax.jit(lambda x: x * 3.25)(jnp.ones(7)))
    assert len(COMPILED) > before


def test_nothing_compiles_between_log_lines(tmp_path):
    inputs, data = inputs_and_data()
    store, seen = CheckpointStore(tmp_path / "checkpoints", warn=lambda _: None), []

    class Log(MetricsLog):
        def write(self, line):
            seen.append(len(COMPILED))
            super().write(line)

    loop = dataclasses.replace(LOOP, log_every_steps=7, steps_per_dispatch=3)
    try:
        fit(
            runner=OneDevice(inputs, data, STEP), settings=loop, store=store, log=Log(tmp_path / "metrics.jsonl"),
            evaluate=score, should_stop=lambda: False,
        )  # fmt: skip
    finally:
        store.close()
    # The first lines compile what a line and an evaluation need; after that dispatches of 1, 2 and 3 steps alternate.
    assert len(seen) > 6 and len(set(seen[3:])) == 1


def test_a_dispatch_moves_nothing_between_host_and_device():
    inputs, data = inputs_and_data()
    runner = OneDevice(inputs, data, STEP)
    state, _ = runner.advance(runner.create_state(0), 0, 0)
    numbers = [jnp.int32(n) for n in (1, 5, 2)]
    programs = train_steps._cache_size()
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device"):
            jnp.sin(np.ones(3, np.float32))  # the guard works
        for number in numbers:
            state, _ = train_steps(state, inputs, data, number, settings=STEP)
    assert train_steps._cache_size() == programs and int(state.step) == 8
    # A CPU's arrays are the host's: of transfers to it only the program can tell.
    program = train_steps.lower(state, inputs, data, numbers[0], settings=STEP).compile().as_text()
    assert not any(word in program for word in ("callback", "infeed(", "outfeed(", " send(", " recv("))
