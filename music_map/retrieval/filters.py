"""What may be recommended, as data: a table of filters, and recommendations under them.

A filter is declared once, with its name, default, rule and meaning (`register`). Fields of config.retrieval, flags of
launch/recommend.py and fields of the service's requests follow from the table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from music_map.errors import UserError
from music_map.ids import Ids
from music_map.registry import Registry
from music_map.rows import row_of_each, select
from music_map.settings import Rule, checked

if TYPE_CHECKING:
    from music_map.retrieval.export import Export, UserSongs
    from music_map.retrieval.settings import RetrievalSettings

Kind = Literal["mask", "songs", "user", "cap", "order"]


class Order(Protocol):
    """Changes the order of the songs of one answer, which are picked one after the other."""

    def gain(self, scores: np.ndarray) -> np.ndarray:
        """What each candidate is worth as the next song: float64 [n] from such scores; the largest is picked."""

    def picked(self, at: int) -> None:
        """Tells that the candidate at a position was picked."""


@dataclasses.dataclass(frozen=True)
class Filter:
    """An entry of the table. A filter acts only where its value is not the default.

    Attributes:
      name: of the setting, the flag and the field of a request.
      default: the value that leaves everything as it is; its type is that of the values.
      rule: bounds, and the meaning in one line.
      kind: what `rule_of` is. "mask": (export, value) -> bool [I], songs that may be recommended to anyone.
        "songs": the same, but the value is a list of song ids, which arrives as indices int64 [n]; not a setting of a
        run, but of a query. "user": (user_songs, user index, value) -> int [n], songs not to recommend to this user.
        "cap": (export) -> offsets int64 [I + 1] and values int [n], the groups of each song as compressed rows; at
        most `value` songs of a group are recommended. "order": (export, vectors, items, value) -> Order of the
        candidates `items`.
      rule_of: the function.
    """

    name: str
    default: Any
    rule: Rule
    kind: Kind
    rule_of: Callable[..., Any]

    @property
    def type(self) -> type:
        """The type of the values; tuple for ids of songs."""
        return tuple if self.kind == "songs" else type(self.default)

    def check(self, value: Any, field: str | None = None) -> Any:
        """The value as the filter takes it. Raises UserError, "FIELD=VALUE: must be RULE"; the name is the field."""
        if self.kind != "songs":
            value = value.item() if isinstance(value, np.generic) else value
            return checked(field or self.name, value, (self.type,), self.rule)
        if value is None:
            return None
        for one in value:
            if isinstance(one, bool) or not isinstance(one, str | int | np.integer):
                raise UserError(f"{self.name}: {one!r} is no id of a song; ids are texts or whole numbers")
        return tuple(value)


FILTERS: Registry[Filter] = Registry("filter", "music_map.retrieval.filter_rules")


def register(name: str, declared: Any, *, kind: Kind) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function, or an Order, that is a filter.

    Args:
      name: see Filter.
      declared: default, meaning and rule, by `music_map.settings.setting`.
      kind: see Filter.
    """

    def add(rule_of: Callable[..., Any]) -> Callable[..., Any]:
        # A run goes on with other filters.
        rule = dataclasses.replace(declared.metadata["rule"], free=True)
        FILTERS.register(name, Filter(name, declared.default, rule, kind, rule_of))
        return rule_of

    return add


class Filters:
    """Rules that recommendations keep, by the names of FILTERS; immutable and hashable.

        Filters(max_per_artist=2, heard=False).max_per_artist

    The songs of the query itself and those that its user dislikes are always out.

    Args:
      values: by name; a filter that is not given has its default, and does nothing.

    Raises:
      UserError: an unknown name, or a value against the filter's rule.
    """

    def __init__(self, **values: Any):
        good = {name: FILTERS.find(name).check(value) for name, value in values.items()}
        self._values = {name: good[name] for name in sorted(good) if good[name] != FILTERS.find(name).default}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in FILTERS:
            raise AttributeError(name)
        return self._values.get(name, FILTERS.find(name).default)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filters) and self._values == other._values

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return f"Filters({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def replace(self, **values: Any) -> Filters:
        """These filters with other values of some."""
        return Filters(**self._values | values)

    def as_dict(self) -> dict[str, Any]:
        """The values that are not the defaults, by name."""
        return dict(self._values)

    def active(self, *kinds: Kind) -> list[tuple[Filter, Any]]:
        """The filters of some kinds that act, and their values."""
        found = [(FILTERS.find(name), value) for name, value in self._values.items()]
        return [(entry, value) for entry, value in found if entry.kind in kinds]

    @property
    def by_score_alone(self) -> bool:
        """Whether the rank of a song depends on its score alone, not on the songs before it."""
        return not self.active("cap", "order")

    @property
    def reorders(self) -> bool:
        """Whether songs of a lower score may come before those of a higher one."""
        return bool(self.active("order"))


def filters_of(settings: RetrievalSettings) -> Filters:
    """The filters that config.retrieval asks for."""
    return Filters(**{name: getattr(settings, name) for name in FILTERS.all() if hasattr(settings, name)})


def unknown_in(filters: Filters, songs: Ids) -> list[str]:
    """A line for each list of songs that holds ids which are not known."""
    unknown = {entry.name: songs.resolve(value)[1] for entry, value in filters.active("songs")}
    return [f"{name}: {songs.unknown('song', values)}" for name, values in unknown.items() if values]


def allowed_songs(filters: Filters, export: Export, songs: Ids | None = None) -> np.ndarray:
    """Songs that the filters leave, whoever asks: bool [I].

    Args:
      filters: the filters.
      export: what is known of the songs.
      songs: their ids; None: the numbers of the export.

    Raises:
      UserError: none is left.
    """
    songs = Ids(export.item_ids) if songs is None else songs
    allowed = export.recommendable.copy()
    for entry, value in filters.active("mask", "songs"):
        allowed &= entry.rule_of(export, songs.resolve(value)[0] if entry.kind == "songs" else value)
    if not allowed.any():
        noted = "".join(f"; {text}" for text in unknown_in(filters, songs))
        raise UserError(f"no song is left by the filters {_in_words(filters)}; loosen one of them{noted}")
    return allowed


def left_out_for(filters: Filters, user_songs: UserSongs, user: int) -> list[np.ndarray]:
    """Songs that the filters leave out for one user: index arrays."""
    return [entry.rule_of(user_songs, user, value) for entry, value in filters.active("user")]


def _in_words(filters: Filters) -> str:
    """The filters that act, without long lists."""
    values = filters.as_dict().items()
    words = [f"{name}={f'{len(value)} ids' if isinstance(value, tuple) else value}" for name, value in values]
    return ", ".join(words) or "(none is set: no song has an edge, audio, an artist or an album)"


def choose(
    filters: Filters, export: Export, vectors: np.ndarray, items: np.ndarray, scores: np.ndarray, k: int
) -> np.ndarray:
    """Picks k songs one after the other under the caps, in the order of their gains.

    Without an "order" filter a song's gain is its score. A song of several artists counts for each; a song without
    artist or album is never capped. Ties go to the earlier.

    Args:
      filters: caps and orders.
      export: artists and albums.
      vectors: float32 [I, d], unit.
      items, scores: int [n], float32 [n], candidates, best first.
      k: songs wanted.

    Returns:
      positions in `items`, int64, in the order of the recommendations; fewer than k where the caps leave no more.
    """
    caps = _Caps(filters, export, items)
    orders = [entry.rule_of(export, vectors, items, value) for entry, value in filters.active("order")]
    picked: list[int] = []
    if not orders:
        for at, item in enumerate(items):
            if caps.admit(int(item)):
                picked.append(at)
                if len(picked) == k:
                    break
        return np.array(picked, np.int64)
    left, relevance = np.ones(len(items), bool), scores.astype(np.float64)
    while len(picked) < k and left.any():
        gain = relevance
        for order in orders:
            gain = order.gain(gain)
        at = int(np.argmax(np.where(left, gain, -np.inf)))
        left[at] = False
        if caps.admit(int(items[at])):
            picked.append(at)
            # Songs that a cap now rules out, possibly most of the catalogue, are not tried one by one.
            left[caps.ruled_out_by(int(items[at]))] = False
            for order in orders:
                order.picked(at)
    return np.array(picked, np.int64)


class _Caps:
    """Counts of the groups, such as artists, of the songs that were picked from `items`."""

    def __init__(self, filters: Filters, export: Export, items: np.ndarray):
        self._rules = [(most, *entry.rule_of(export), {}) for entry, most in filters.active("cap")]
        self._items = items

    @functools.cached_property
    def _members(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each cap, the groups of all candidates: positions in `items` and groups, int [n] each."""
        selected = [(values, *select(offsets, self._items)) for _, offsets, values, _ in self._rules]
        return [(row_of_each(offsets), values[places]) for values, offsets, places in selected]

    def ruled_out_by(self, item: int) -> np.ndarray:
        """Positions of the candidates that can no longer be picked after this song: int64 [n]."""
        found = [np.zeros(0, np.int64)]
        for (most, offsets, values, counts), (rows, groups) in zip(self._rules, self._members, strict=True):
            own = values[offsets[item] : offsets[item + 1]].tolist()
            found += [rows[groups == group] for group in own if counts[group] >= most]
        return np.concatenate(found)

    def admit(self, item: int) -> bool:
        """Whether the song may still be picked; if so it is counted."""
        counted = []
        for most, offsets, values, counts in self._rules:
            groups = values[offsets[item] : offsets[item + 1]].tolist()
            if any(counts.get(group, 0) >= most for group in groups):
                return False
            counted.append((counts, groups))
        for counts, groups in counted:
            for group in groups:
                counts[group] = counts.get(group, 0) + 1
        return True
