"""How a trained model answers, checked."""

from __future__ import annotations

import dataclasses

from music_map.settings import Settings, setting

BACKENDS = ("auto", "scann", "exact")


@dataclasses.dataclass(frozen=True)
class RetrievalSettings(Settings):
    """Index, playlist query and default filters: the configuration's `retrieval`. A run may change all of it later."""

    section = "config.retrieval"
    index: str = setting("auto", "the search over songs", choices=BACKENDS, free=True)
    recall_target: float = setting(
        0.99,
        "of ScaNN's recall@100 against exact search, measured when the index is built",
        above=0,
        at_most=1,
        free=True,
    )
    learned_attention: bool = setting(
        True, "train the playlist attention on sessions; needs timestamps and recency", free=True
    )
    num_sessions: int = setting(2000, "sessions of past windows to train it on", at_least=1, free=True)
    attention_temperature: float = setting(
        0.1, "of the untrained attention; lower: closer to the most central songs", above=0, free=True
    )
    dislike_push: float = setting(
        0.5, "share of a disliked song's direction taken out of a query", at_least=0, at_most=1, free=True
    )
    max_per_artist: int = setting(0, "songs of one artist among the recommended; 0: any number", at_least=0, free=True)
    max_per_album: int = setting(0, "songs of one album among the recommended; 0: any number", at_least=0, free=True)
    min_listeners: int = setting(0, "songs with fewer listeners in train are not recommended", at_least=0, free=True)
    only_with_audio: bool = setting(False, "songs without an audio embedding are not recommended", free=True)
    diversity: float = setting(
        0.0,
        "0: by score alone; towards 1: unlike the songs before (maximal marginal relevance)",
        at_least=0,
        below=1,
        free=True,
    )
