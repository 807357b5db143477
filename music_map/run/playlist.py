"""The playlist query of a run: trained on sessions of past windows, with what was known before them.

WORKDIR/playlist.json    the heads; fitted with the encoder of WORKDIR/recency
"""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np

from music_map import processes
from music_map.errors import DamagedFileError
from music_map.evaluation.playlist import sessions_of
from music_map.graph.bipartite import listeners_of
from music_map.playlist.companions import FORMAT_VERSION as COMPANIONS_VERSION
from music_map.playlist.companions import Companions, companions_of
from music_map.playlist.fit import Examples, examples_of, fit_heads
from music_map.playlist.heads import Heads, from_json, to_json, untrained
from music_map.playlist.mixture import fit_mixture
from music_map.recency.history import before
from music_map.recency.windows import Window
from music_map.reporter import Progress, silent
from music_map.retrieval.export import FOLDER, HEADS_FILE, is_current, load_companions, popularity_of
from music_map.run.folder import files_of
from music_map.run.recency import Past
from music_map.run.run import Run, keep, read_kept
from music_map.storage import fingerprint
from music_map.text import counted

# Raise it when the attention or its fit change: heads of an older version are then fitted again.
FORMAT_VERSION = 5


def heads_for(past: Past) -> Heads:
    """The run's heads, fitted now unless they are stored; untrained ones if no window has a session."""
    run, retrieval = past.run, past.run.config.retrieval
    start = untrained(retrieval.attention_temperature)
    if not retrieval.learned_attention or not past:
        if processes.first():
            files_of(run.workdir).remove(HEADS_FILE)
        return start
    identity = fingerprint(
        {
            "version": FORMAT_VERSION,
            "dataset": run.dataset.fingerprint,
            "step": past.trained.step,
            "windows": [dataclasses.asdict(window) for window in past.windows],
            "num_sessions": retrieval.num_sessions,
            "min_played_pct": run.config.eval.min_played_pct,
            "seed": run.config.train.seed,
        }
        # Heads that are older than these settings are as they would be without.
        | ({"companions": COMPANIONS_VERSION} if retrieval.companions else {})
        | ({"mixed_share": retrieval.mixed_share} if retrieval.mixed_share else {})
    )
    found = processes.from_first(_kept_heads(run, identity))
    if found is not None:
        return from_json(found, source=str(run.workdir / HEADS_FILE))
    found, heads = _examples_of(past), start
    if found:
        examples, seed = [of_window for _, of_window in found], run.config.train.seed
        heads, strengths = fit_heads(examples, seed=seed, mesh=run.mesh, progress=past.reporter.bar)
        known = [
            (of_window, _companions(run, past.reporter.bar, now=window.now) if retrieval.companions else None)
            for window, of_window in found
        ]
        heads = heads._replace(mixture=fit_mixture(heads, known, mixed_share=retrieval.mixed_share, seed=seed))
        count = sum(len(e.songs) for e in examples)
        how = {name: "the plain mean" if np.isinf(x) else f"weights, strength {x:g}" for name, x in strengths.items()}
        chosen = "; ".join(f"{name}: {text}" for name, text in how.items())
        together = f"songs listened to together: weight {heads.mixture.together:g}"
        where = f"{counted(count, 'session')} of {counted(len(examples), 'past window')}"
        run.reporter.note(f"playlist query: fitted on {where}; {chosen}; {together}")
    else:
        run.reporter.warn("no past window has a session of three songs; the playlist query stays untrained")
    if processes.first():
        keep(run, HEADS_FILE, {"fingerprint": identity, "heads": to_json(heads)})
    return heads


def _kept_heads(run: Run, identity: str) -> dict | None:
    """The heads in a file of `heads_for`, as JSON; None if it is missing, damaged or another model's."""
    stored = read_kept(run, HEADS_FILE, {"fingerprint": str, "heads": dict})
    return stored["heads"] if stored and stored["fingerprint"] == identity else None


def companions_for(run: Run, heads: Heads, *, progress: Progress = silent) -> Companions | None:
    """Songs listened to together in train, from the export if it has them; None if the heads do not use them."""
    if heads.mixture.together <= 0:
        return None
    with contextlib.suppress(DamagedFileError):
        if is_current(run.workdir / FOLDER) and (stored := load_companions(run.workdir / FOLDER)) is not None:
            return stored
    return _companions(run, progress)


def _companions(run: Run, progress: Progress, *, now: int | None = None) -> Companions:
    train = run.events("train")
    sessions = sessions_of(train if now is None else before(train, now), min_played_pct=run.config.eval.min_played_pct)
    return companions_of(sessions, run.dataset.num_items, progress=progress)


def _examples_of(past: Past) -> list[tuple[Window, Examples]]:
    config, train = past.run.config, past.run.events("train")
    found, left = [], config.retrieval.num_sessions
    for number, window in enumerate(past.windows):
        sessions = sessions_of(window.targets(train), min_played_pct=config.eval.min_played_pct)
        if left <= 0 or not len(sessions.users):
            continue
        listeners = listeners_of(past.encoder(window.now).graph)
        items = np.asarray(past.embeddings(window.now).item)
        seed = config.train.seed + number
        examples = examples_of(sessions, items, popularity_of(listeners), listeners > 0, most=left, seed=seed)
        if examples is not None:
            found.append((window, examples))
            left -= len(examples.songs)
    return found
