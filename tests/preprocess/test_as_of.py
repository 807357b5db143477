"""A data set as of a moment in train: nothing from then on is seen, all else stays."""

import numpy as np
from raw_logs import random_log, write_logs

from music_map.graph.build import build_graph
from music_map.graph.settings import GraphSettings
from music_map.preprocess.build import build_dataset, plan_dataset
from music_map.preprocess.settings import PreprocessSettings


def test_as_of_hides_what_comes_later(tmp_path):
    write_logs(tmp_path, **random_log(3))
    settings = PreprocessSettings(min_interactions=1, chunk_size=61)
    dataset = build_dataset(plan_dataset(settings, source=tmp_path, processed_dir=tmp_path / "processed"))
    whole, withdrawn = dataset.events("train"), dataset.withdrawals("train")
    moment = int(np.median(whole.timestamp))
    past = dataset.as_of(moment)
    for rows, known in ((whole, past.events("train")), (withdrawn, past.withdrawals("train"))):
        keep = rows.timestamp < moment
        assert 0 < keep.sum() < len(keep)
        for column, wanted in zip(known, rows, strict=True):
            np.testing.assert_array_equal(column, wanted[keep])
    user = int(whole.user[0])
    known, mine = past.user_events("train", user), dataset.user_events("train", user)
    np.testing.assert_array_equal(known.item, mine.item[mine.timestamp < moment])
    assert past.train_end == whole.timestamp[whole.timestamp < moment].max() < dataset.train_end
    np.testing.assert_array_equal(past.events("val").item, dataset.events("val").item)
    assert len({dataset.fingerprint, past.fingerprint, dataset.as_of(moment - 1).fingerprint}) == 3
    graph, _ = build_graph(past, GraphSettings(half_life_days=None))
    seen = {*zip(past.events("train").user.tolist(), past.events("train").item.tolist(), strict=True)}
    assert seen.issuperset(zip(graph.user.tolist(), graph.item.tolist(), strict=True))
