"""The playlist query of a run: trained on sessions of past windows, with what was known before them.

WORKDIR/playlist.json    the heads; fitted with the encoder of WORKDIR/recency
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import numpy as np

from music_map import processes
from music_map.errors import DamagedFileError
from music_map.evaluation.playlist import SEED_COUNTS, Sessions, sessions_of
from music_map.graph.bipartite import listeners_of
from music_map.playlist.companions import FORMAT_VERSION as COMPANIONS_VERSION
from music_map.playlist.companions import Companions, companions_of
from music_map.playlist.fit import examples_at, examples_of, fit_heads
from music_map.playlist.heads import Heads, from_json, to_json, untrained
from music_map.playlist.mixture import Evidence, fit_mixture
from music_map.playlist.onward import FORMAT_VERSION as ONWARD_VERSION
from music_map.playlist.onward import Onward, onward_of
from music_map.playlist.space import embed, moments_of
from music_map.recency.history import before
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
        | ({"onward": ONWARD_VERSION} if retrieval.onward else {})
        | ({"mixed_share": retrieval.mixed_share} if retrieval.mixed_share else {})
    )
    found = processes.from_first(_kept_heads(run, identity))
    if found is not None:
        return from_json(found, source=str(run.workdir / HEADS_FILE))
    found, heads = _evidence_of(past), start
    if found:
        examples, seed = [window.examples for window in found], run.config.train.seed
        heads, strengths = fit_heads(examples, seed=seed, mesh=run.mesh, progress=past.reporter.bar)
        mixture = fit_mixture(heads, found, mixed_share=retrieval.mixed_share, seed=seed)
        heads = heads._replace(mixture=mixture)
        count = sum(len(e.songs) for e in examples)
        how = {name: "the plain mean" if np.isinf(x) else f"weights, strength {x:g}" for name, x in strengths.items()}
        chosen = "; ".join(f"{name}: {text}" for name, text in how.items())
        where = f"{counted(count, 'session')} of {counted(len(examples), 'past window')}"
        run.reporter.note(
            f"playlist query: fitted on {where}; {chosen}; songs listened to together: weight {mixture.together:g}; "
            f"where sessions go on: {mixture.one:g} from one song, {mixture.several:g} from several"
        )
    else:
        run.reporter.warn("no past window has a session of three songs; the playlist query stays untrained")
    if processes.first():
        keep(run, HEADS_FILE, {"fingerprint": identity, "heads": to_json(heads)})
    return heads


def _kept_heads(run: Run, identity: str) -> dict | None:
    """The heads in a file of `heads_for`, as JSON; None if it is missing, damaged or another model's."""
    stored = read_kept(run, HEADS_FILE, {"fingerprint": str, "heads": dict})
    return stored["heads"] if stored and stored["fingerprint"] == identity else None


def goes_on(heads: Heads) -> bool:
    """Whether the heads use where sessions go on."""
    return bool(heads.mixture.one > 0 or heads.mixture.several > 0)


def told_by_sessions(run: Run, heads: Heads, *, progress: Progress = silent) -> tuple[Companions | None, Onward | None]:
    """Songs listened to together in train, from the export if it has them, and where sessions go on there.

    The latter is in the space of the heads. Each is None if the heads do not use it.
    """
    sessions, companions, onward = functools.cache(lambda: _sessions(run)), None, None
    if heads.mixture.together > 0:
        with contextlib.suppress(DamagedFileError):
            companions = load_companions(run.workdir / FOLDER) if is_current(run.workdir / FOLDER) else None
        if companions is None:
            companions = companions_of(sessions(), run.dataset.num_items, progress=progress)
    if goes_on(heads):
        items, listeners = np.asarray(run.embeddings.item), listeners_of(run.graph)
        placed = np.asarray(embed(items, moments_of(items, listeners > 0), heads.space))
        onward = onward_of(sessions(), placed, seed=run.config.train.seed)
    return companions, onward


def _sessions(run: Run, *, now: int | None = None) -> Sessions:
    train = run.events("train")
    return sessions_of(train if now is None else before(train, now), min_played_pct=run.config.eval.min_played_pct)


def _evidence_of(past: Past) -> list[Evidence]:
    run, retrieval, train = past.run, past.run.config.retrieval, past.run.events("train")
    found, left = [], retrieval.num_sessions
    for number, window in enumerate(past.windows):
        sessions = sessions_of(window.targets(train), min_played_pct=run.config.eval.min_played_pct)
        if left <= 0 or not len(sessions.users):
            continue
        listeners = listeners_of(past.encoder(window.now).graph)
        items = np.asarray(past.embeddings(window.now).item)
        given = (sessions, items, popularity_of(listeners), listeners > 0)
        options = {"most": left, "seed": run.config.train.seed + number}
        examples = examples_of(*given, **options)
        if examples is not None:
            earlier, num_items = _sessions(run, now=window.now), run.dataset.num_items
            known = companions_of(earlier, num_items, progress=past.reporter.bar) if retrieval.companions else None
            cuts = (SEED_COUNTS[:1], SEED_COUNTS[1:]) if retrieval.onward else ()
            of_cuts = (examples_at(at, *given, **options) for at in cuts)
            found.append(Evidence(examples, known, earlier if retrieval.onward else None, *of_cuts))
            left -= len(examples.songs)
    return found
