"""Protocols: which songs a user should have been shown, which are withheld, and which may be recommended at all.

Figures of two protocols cannot be compared: masking validation songs at test, say, lifts LightGCN++'s NDCG@20 on LastFM
by 8 %. So a protocol has a name, and whatever reports a figure reports the name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events
from music_map.registry import Registry

# Which events count: a name of RELEVANCES, or (events, least played per cent) -> bool [E].
Accepts = Callable[[Events, int], np.ndarray]
Relevance = Literal["any", "positive", "listen_plus", "like", "listen_plus_or_like"] | Accepts

# Yambda's "Listen+": at least half of the track was played.
MIN_PLAYED_PCT = 50
EVALUATED_SPLITS = ("val", "test")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a split becomes a ranking task.

    Attributes:
      name: its key in PROTOCOLS.
      relevance: events of the split whose songs are targets, by a name in RELEVANCES or a function.
      history: train events that count, likewise. Users without one are left out.
      mask: songs withheld from a user. "none"; "train": songs of the user's train events, of any kind; "history": songs
        of all events before the split (train for val, train and val for test); a function like `relevance`: songs of
        the events before the split that it accepts. A withheld song is not a target.
      candidates: songs that may be recommended. "all"; "train": songs with a train event that counts; "held_out": songs
        held out from training (data.cold_item_fraction), whose interactions are then the targets. A target that is not
        a candidate remains a target.
      needs: what the data must have. "nothing"; "timestamps", which the text format lacks; "global_temporal", the
        split of the Yambda paper; "held_out", songs held out from training.
      queries: what is ranked for: "users"; "new_users", whom the model has not seen (music_map.run.new_users); or
        the "sessions" of the split (music_map.evaluation.playlist), where `mask` and `build_task` do not apply.
    """

    name: str
    relevance: Relevance
    history: Relevance
    mask: Literal["none", "train", "history"] | Accepts
    candidates: Literal["all", "train", "held_out"]
    needs: Literal["nothing", "timestamps", "global_temporal", "held_out"] = "timestamps"
    queries: Literal["users", "new_users", "sessions"] = "users"

    def described(self) -> dict[str, Any]:
        """The fields as JSON-able values, functions by their names."""
        values = dataclasses.asdict(self)
        return {k: f"{v.__module__}.{v.__qualname__}" if callable(v) else v for k, v in values.items()}


PROTOCOLS: Registry[Protocol] = Registry("protocol", "music_map.evaluation.protocols")


def register(protocol: Protocol) -> Protocol:
    """Adds a protocol to the table: config.eval.protocol and --protocol can then be its name."""
    PROTOCOLS.register(protocol.name, protocol)
    return protocol


# New music: songs played at least half, or liked, that the user had never met before the split.
register(Protocol("temporal", "listen_plus_or_like", history="positive", mask="history", candidates="train"))
# What comes next, repeats included.
register(Protocol("temporal_repeats", "listen_plus_or_like", history="positive", mask="none", candidates="train"))
# The two tasks of the Yambda paper (arXiv 2505.22238). Its train split holds events of the task's own kind alone, so
# catalogue and users are those of Listen+ (of like) events.
register(
    Protocol(
        "global_temporal",
        "listen_plus",
        history="listen_plus",
        mask="none",
        candidates="train",
        needs="global_temporal",
    )
)
register(
    Protocol("global_temporal_like", "like", history="like", mask="none", candidates="train", needs="global_temporal")
)
# LightGCN, LightGCN++ and their kin: validation songs are not masked at test, every song is a candidate.
register(Protocol("lightgcn", "any", history="any", mask="train", candidates="all", needs="nothing"))
# New songs: of the songs without a known play, those that a user will play at least half, or like.
register(
    Protocol(
        "cold_start",
        "listen_plus_or_like",
        history="positive",
        mask="none",
        candidates="held_out",
        needs="held_out",
    )
)
# The rest of a listening session, given its first songs and nothing of the user.
register(
    Protocol("playlist", "listen_plus_or_like", history="positive", mask="none", candidates="train", queries="sessions")
)
# New music for listeners whom the model has never seen, given what they played in train.
register(
    Protocol(
        "fold_in",
        "listen_plus_or_like",
        history="positive",
        mask="history",
        candidates="train",
        needs="nothing",
        queries="new_users",
    )
)


@dataclasses.dataclass(frozen=True)
class RankingTask:
    """The users to rank songs for, and the songs that should rank first.

    Attributes:
      protocol: what made the task.
      split: "val" or "test".
      users: int32 [U], user indices, ascending; each has a target.
      targets: U rows, the songs that should be recommended to each of `users`.
      masked: U rows, the songs withheld from each of `users`; no target is among them.
      candidates: bool [I], songs that may be recommended.
      num_dropped_users: users with targets who are left out because they have no train event that counts.
      cold_target_share: share of the targets whose song has no train event that counts; they remain targets.
    """

    protocol: Protocol
    split: str
    users: np.ndarray
    targets: Pairs
    masked: Pairs
    candidates: np.ndarray
    num_dropped_users: int
    cold_target_share: float

    @property
    def num_targets(self) -> int:
        return len(self.targets.items)

    @property
    def catalogue(self) -> int:
        """Number of candidates."""
        return int(self.candidates.sum())

    def select(self, rows: np.ndarray) -> RankingTask:
        """The task for some of its users: positions in `users`, ascending. What describes the whole task stays."""
        return dataclasses.replace(
            self,
            users=self.users[rows],
            targets=self.targets.select(rows),
            masked=self.masked.select(rows),
        )


def find_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises UserError where there is none."""
    return PROTOCOLS.find(name)


def check_protocol(protocol: Protocol, *, data_format: str, split_rule: str, songs_held_out: bool = False) -> None:
    """Raises UserError where the data cannot answer the protocol.

    Args:
      protocol: of PROTOCOLS.
      data_format: "yambda" or "text", PreprocessSettings.format.
      split_rule: "temporal" or "global_temporal", PreprocessSettings.split; the text format has its own split.
      songs_held_out: whether PreprocessSettings.cold_item_fraction is above 0.
    """
    if protocol.needs == "nothing":
        return
    if data_format == "text":
        raise UserError(
            f"protocol {protocol.name!r} needs timestamps and the text format has none; choose lightgcn, or data in "
            "Yambda's format (config.data.format='yambda')"
        )
    if protocol.needs == "global_temporal" and split_rule != "global_temporal":
        raise UserError(
            f"protocol {protocol.name!r} needs the Yambda paper's split and the data has config.data.split="
            f"{split_rule!r}; train with --config.data.split=global_temporal in a new --workdir, or choose another "
            "protocol"
        )
    if protocol.needs == "held_out" and not songs_held_out:
        raise UserError(
            f"protocol {protocol.name!r} ranks songs held out from training, and this run has none; train with "
            "--config.data.cold_item_fraction=0.1 in a new --workdir, or choose another protocol"
        )


RELEVANCES: dict[str, Accepts] = {
    "any": lambda events, _: events.kind != DISLIKE,
    "positive": lambda events, _: _liked(events) | (_listened(events) & (events.played_pct > 0)),
    "listen_plus": lambda events, least: _listened(events) & (events.played_pct >= least),
    "like": lambda events, _: _liked(events),
    "listen_plus_or_like": lambda events, least: _liked(events) | (_listened(events) & (events.played_pct >= least)),
}


def _listened(events: Events) -> np.ndarray:
    return events.kind == LISTEN


def _liked(events: Events) -> np.ndarray:
    return events.kind == LIKE


def relevant(events: Events, relevance: Relevance, *, min_played_pct: int = MIN_PLAYED_PCT) -> np.ndarray:
    """Which events a relevance accepts, bool [E].

    "any": every listen and like; "positive": likes, and listens of more than 0 %; "listen_plus": listens of at least
    `min_played_pct` %; "like": likes; "listen_plus_or_like": either. None of these accepts a dislike.
    """
    accepts = relevance if callable(relevance) else RELEVANCES[relevance]
    return accepts(events, min_played_pct)


def masking_splits(protocol: Protocol, split: str) -> tuple[str, ...]:
    """The splits whose events withhold songs from a task of `split`."""
    if protocol.mask == "none":
        return ()
    return ("train",) if protocol.mask == "train" or split == "val" else ("train", "val")


def masked_songs(
    protocol: Protocol,
    earlier: Sequence[Events],
    *,
    num_users: int,
    num_items: int,
    min_played_pct: int = MIN_PLAYED_PCT,
    users: np.ndarray | None = None,
) -> Pairs:
    """The songs that a protocol withholds, a row a user.

    Args:
      protocol: its mask.
      earlier: the events of `masking_splits`.
      num_users, num_items: of the data.
      min_played_pct: see `relevant`.
      users: bool [U], whose masks are needed; None: all.
    """
    columns = [(np.zeros(0, np.int32), np.zeros(0, np.int32))]
    for events in earlier:
        kept = np.ones(len(events.user), bool) if users is None else users[events.user]
        if callable(protocol.mask):
            kept &= protocol.mask(events, min_played_pct)
        columns.append((events.user[kept], events.item[kept]))
    return Pairs.of(*map(np.concatenate, zip(*columns, strict=True)), num_rows=num_users, num_items=num_items)


def build_task(
    protocol: str | Protocol,
    split: str,
    *,
    train: Events,
    val: Events,
    test: Events,
    num_users: int,
    num_items: int,
    min_played_pct: int = MIN_PLAYED_PCT,
    held_out_items: np.ndarray | None = None,
) -> RankingTask:
    """Builds the ranking task of a split. Masks and candidates depend on earlier splits alone.

    Args:
      protocol: a Protocol, or the name of one in PROTOCOLS.
      split: "val" or "test".
      train, val, test: the interactions of the three splits; `val` and `test` are those of the held-out songs where
        the protocol ranks these.
      num_users: number of users; user indices are below it.
      num_items: number of songs; item indices are below it.
      min_played_pct: share of the track, in percent, from which a listen is relevant.
      held_out_items: bool [I], songs held out from training; None: none.

    Raises:
      UserError: the protocol or the split is unknown, or no user has a target.
      ValueError: the protocol ranks for sessions.
    """
    protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if protocol.queries == "sessions":
        raise ValueError(f"protocol {protocol.name!r} has its own tasks; see music_map.evaluation.playlist")
    if split not in EVALUATED_SPLITS:
        raise UserError(f"split {split!r} cannot be evaluated; choose one of {', '.join(EVALUATED_SPLITS)}")
    if protocol.candidates == "held_out" and held_out_items is None:
        raise ValueError(f"protocol {protocol.name!r} needs held_out_items")
    held_out = val if split == "val" else test

    sizes = {"num_users": num_users, "num_items": num_items, "min_played_pct": min_played_pct}
    before = {"train": train, "val": val}
    earlier = [before[name] for name in masking_splits(protocol, split)]
    # Users of the split alone need a mask; train has far more.
    masked = masked_songs(protocol, earlier, **sizes, users=_flags(held_out.user, num_users))
    wanted = relevant(held_out, protocol.relevance, min_played_pct=min_played_pct)
    targets = Pairs.of(held_out.user[wanted], held_out.item[wanted], num_rows=num_users, num_items=num_items)
    targets = targets.minus(masked)

    counts = relevant(train, protocol.history, min_played_pct=min_played_pct)
    known_users, known_items = _flags(train.user[counts], num_users), _flags(train.item[counts], num_items)

    has_targets = targets.sizes > 0
    users = np.flatnonzero(has_targets & known_users).astype(np.int32)
    if len(users) == 0:
        raise UserError(
            f"protocol {protocol.name!r} finds no user with both train events and a target in the {split} split; "
            "choose another protocol (config.eval.protocol) or split, or give a longer log of more users"
        )
    targets = targets.select(users)
    candidates = {"all": np.ones(num_items, bool), "train": known_items, "held_out": held_out_items}
    return RankingTask(
        protocol=protocol,
        split=split,
        users=users,
        targets=targets,
        masked=masked.select(users),
        candidates=candidates[protocol.candidates],
        num_dropped_users=int((has_targets & ~known_users).sum()),
        cold_target_share=float((~known_items[targets.items]).mean()),
    )


def _flags(indices: np.ndarray, size: int) -> np.ndarray:
    flags = np.zeros(size, bool)
    flags[indices] = True
    return flags
