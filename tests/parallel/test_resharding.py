"""A checkpoint of one number of devices goes on with another."""

import jax
import numpy as np
from uneven import GRAPH, STEP

from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.parallel.runners import make_runner
from music_map.training.checkpoint import CheckpointStore


def test_a_checkpoint_moves_from_four_devices_to_two_to_eight(tmp_path):
    inputs = EncoderInputs(adjacency(GRAPH, degree="weighted"), None)
    params = None
    for devices in (4, 2, 8):
        runner = make_runner(
            "sharded", graph=GRAPH, inputs=inputs, users="uniform", items="weight", settings=STEP,
            devices=jax.devices()[:devices],
        )  # fmt: skip
        store = CheckpointStore(tmp_path)
        state = runner.create_state(0)
        found = store.restore(state)
        if found is not None:
            state = found[1]
            for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(runner.params(state.params)), strict=True):
                np.testing.assert_array_equal(a, b)
        before = int(state.step)
        state, finite = runner.advance(state, before, 2)
        assert finite and int(state.step) == before + 2
        assert len(state.params["user"].sharding.device_set) == devices
        params = runner.params(state.params)
        store.save(int(state.step), state, {})
        store.close()
    assert before == 4
