"""Settings of retrieval."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from music_map.retrieval.filters import FILTERS
from music_map.settings import Settings, rules, setting

BACKENDS = ("auto", "scann", "exact")


@dataclasses.dataclass(frozen=True)
class _Declared(Settings):
    """Index, playlist query and filters: the configuration's `retrieval`. A run may change all of it later.

    Its filters are those of the table `music_map.retrieval.filters.FILTERS`. A filter of another package is a field
    where a configuration sets it.
    """

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
    companions: bool = setting(
        True,
        "score songs that were listened to together with the playlist's; the weight is chosen on past windows",
        free=True,
        before=False,
    )
    onward: bool = setting(
        True,
        "turn the playlist query to what sessions go on with; the strengths are chosen on past windows",
        free=True,
        before=False,
    )
    mixed_share: float = setting(
        0.1,
        "share of past sessions that count as several tastes, as does every playlist whose songs are as unlike; 0: "
        "each playlist is one",
        at_least=0,
        below=1,
        free=True,
        before=0.0,
    )
    attention_temperature: float = setting(
        0.1,
        "of the untrained attention; lower: closer to the most central songs",
        at_least=1e-4,
        at_most=10_000,
        free=True,
    )
    dislike_push: float = setting(
        0.5, "share of a disliked song's direction taken out of a query", at_least=0, at_most=1, free=True
    )

    @classmethod
    def kind_of(cls, values: Mapping[str, Any]) -> type[_Declared]:
        more = tuple(name for name in values if name not in rules(cls) and name in FILTERS)
        return _with_filters(cls, more) if more else cls


# Kept: settings of two classes are never equal.
@functools.cache
def _with_filters(base: type[_Declared], names: tuple[str, ...]) -> type[_Declared]:
    """The settings with a field for each of these filters, but for those that are lists of songs."""
    found = [entry for entry in map(FILTERS.find, names) if entry.kind != "songs"]
    fields = [
        (entry.name, entry.type, dataclasses.field(default=entry.default, metadata={"rule": entry.rule}))
        for entry in found
    ]
    return dataclasses.make_dataclass(
        "RetrievalSettings",
        fields,
        bases=(base,),
        namespace={"__module__": __name__, "__doc__": base.__doc__},
        frozen=True,
    )


RetrievalSettings = _with_filters(_Declared, tuple(FILTERS.all(installed=False)))
