"""The settings of the graph filter, with their checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from music_map.errors import require
from music_map.registry import Registry
from music_map.settings import Settings, setting


class Kind(NamedTuple):
    """A kind of filter, see `music_map.graph_filter.operator`.

    Attributes:
      response: h, from eigenvalues float [k] in (0, 1] to gains float [k]; None: h(w) = w, without a spectrum.
      ideal: added to the gain of each of the k eigenvectors.
      exponents: values of b = q, the usual one first. The kind that is best with it goes on to lesser or larger ones.
    """

    response: Callable | None
    ideal: float
    exponents: tuple[float, ...]


KINDS: Registry[Kind] = Registry("config.graph_filter.kinds", "music_map.graph_filter.kinds")


@dataclasses.dataclass(frozen=True)
class GraphFilterSettings(Settings):
    """The graph filter beside the encoder: the configuration's `graph_filter`."""

    section = "config.graph_filter"
    enabled: bool = setting(
        True,
        "mix a closed-form filter of the graph with the encoder's score, where no recency head is used",
        free=True,
        before=False,
    )
    kinds: tuple[str, ...] = setting(
        ("chebyshev", "linear", "ridge"), "the filters to choose from on validation; of equals the first", free=True
    )
    share: float | None = setting(
        None, "share of the filter in the score; none: chosen on validation", at_least=0, at_most=1, free=True
    )
    exponent: float | None = setting(
        None,
        "b = q, powers of the songs' degrees before and after; none: chosen with the share, or the kind's usual one",
        at_least=-2,
        at_most=2,
        free=True,
    )
    rank: int = setting(
        512,
        "k, eigenvectors of the filters that need a spectrum; fewer where their table would exceed 256 MiB",
        at_least=1,
        free=True,
    )
    num_users: int = setting(20_000, "most users of validation to choose on", at_least=1, free=True)

    def check(self) -> None:
        require(bool(self.kinds), "config.graph_filter.kinds", self.kinds, f"names of {', '.join(KINDS.all())}")
        for kind in self.kinds:
            KINDS.find(kind)
