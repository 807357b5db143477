"""Protocols: which songs a user should have been shown, which are withheld, and which may be recommended at all.

Figures of two protocols cannot be compared: masking validation songs at test, say, lifts LightGCN++'s NDCG@20 on LastFM
by 8 %. So a protocol has a name, and whatever reports a figure reports the name.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs
from music_map.preprocess.dataset import DISLIKE, LIKE, LISTEN, Events

Relevance = Literal["any", "positive", "listen_plus", "like", "listen_plus_or_like"]

# Yambda's "Listen+": at least half of the track was played.
MIN_PLAYED_PCT = 50
EVALUATED_SPLITS = ("val", "test")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a split becomes a ranking task.

    Attributes:
      name: its key in PROTOCOLS.
      relevance: events of the split whose songs are targets; see `relevant`.
      history: train events that count. Users without one are left out.
      mask: songs withheld from a user: "none"; "train": those of the user's train events, of any kind; "history": those
        of all events before the split (train for val, train and val for test). A withheld song is no target.
      candidates: songs that may be recommended: "all", "train": those with a train event that counts, or "held_out":
        the songs held out altogether (data.cold_item_fraction), whose interactions are then the targets. A target that
        is no candidate remains a target.
      needs: what it needs of the data: "nothing"; "timestamps", which the text format has none of; or
        "global_temporal", the Yambda paper's split; or "held_out", songs held out from training.
      queries: what is ranked for: "users", or the "sessions" of the split, see music_map.evaluation.playlist; then
        `mask` and `build_task` do not apply.
    """

    name: str
    relevance: Relevance
    history: Relevance
    mask: Literal["none", "train", "history"]
    candidates: Literal["all", "train", "held_out"]
    needs: Literal["nothing", "timestamps", "global_temporal", "held_out"] = "timestamps"
    queries: Literal["users", "sessions"] = "users"


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        # New music: songs played at least half, or liked, that the user had never met before the split.
        Protocol("temporal", "listen_plus_or_like", history="positive", mask="history", candidates="train"),
        # What comes next, repeats included.
        Protocol("temporal_repeats", "listen_plus_or_like", history="positive", mask="none", candidates="train"),
        # The two tasks of the Yambda paper (arXiv 2505.22238). There train itself holds only the task's own kind of
        # event: catalogue and users are those of Listen+ (of like) events.
        Protocol(
            "global_temporal",
            "listen_plus",
            history="listen_plus",
            mask="none",
            candidates="train",
            needs="global_temporal",
        ),
        Protocol(
            "global_temporal_like", "like", history="like", mask="none", candidates="train", needs="global_temporal"
        ),
        # LightGCN, LightGCN++ and their kin: validation songs are not masked at test, every song is a candidate.
        Protocol("lightgcn", "any", history="any", mask="train", candidates="all", needs="nothing"),
        # New songs: of those that nobody is known to have played, which ones a user will play at least half, or like.
        Protocol(
            "cold_start",
            "listen_plus_or_like",
            history="positive",
            mask="none",
            candidates="held_out",
            needs="held_out",
        ),
        # The rest of a listening session, given its first songs and nothing of the user.
        Protocol(
            "playlist", "listen_plus_or_like", history="positive", mask="none", candidates="train", queries="sessions"
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class RankingTask:
    """Whom to rank songs for, and what should come out on top.

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
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(name, PROTOCOLS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"protocol {name!r} is unknown; {hint}choose one of {', '.join(PROTOCOLS)}")


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


def relevant(events: Events, relevance: Relevance, *, min_played_pct: int = MIN_PLAYED_PCT) -> np.ndarray:
    """Which events a relevance accepts, bool [E].

    "any": every listen and like; "positive": likes, and listens of more than 0 %; "listen_plus": listens of at least
    `min_played_pct` %; "like": likes; "listen_plus_or_like": either. No relevance accepts a dislike.
    """
    listen, like = events.kind == LISTEN, events.kind == LIKE
    if relevance == "any":
        return events.kind != DISLIKE
    if relevance == "positive":
        return like | (listen & (events.played_pct > 0))
    if relevance == "listen_plus":
        return listen & (events.played_pct >= min_played_pct)
    if relevance == "like":
        return like
    if relevance == "listen_plus_or_like":
        return like | (listen & (events.played_pct >= min_played_pct))
    raise ValueError(f"relevance {relevance!r} is unknown")


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
    """Builds the ranking task of a split. Nothing of the split itself, or of a later one, shapes mask or candidates.

    Args:
      protocol: a Protocol, or the name of one in PROTOCOLS.
      split: "val" or "test".
      train, val, test: the interactions of the three splits; where the protocol ranks held-out songs, `val` and `test`
        are those of these songs.
      num_users: number of users; user indices are below it.
      num_items: number of songs; item indices are below it.
      min_played_pct: share of the track, in percent, from which a listen is relevant.
      held_out_items: bool [I], songs held out altogether; None: none.

    Raises:
      UserError: the protocol or the split is unknown, or no user has a target.
      ValueError: the protocol ranks for sessions.
    """
    protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if protocol.queries != "users":
        raise ValueError(f"protocol {protocol.name!r} has its own tasks; see music_map.evaluation.playlist")
    if split not in EVALUATED_SPLITS:
        raise UserError(f"split {split!r} cannot be evaluated; choose one of {', '.join(EVALUATED_SPLITS)}")
    if protocol.candidates == "held_out" and held_out_items is None:
        raise ValueError(f"protocol {protocol.name!r} needs held_out_items")
    held_out = val if split == "val" else test

    def pairs(events: Sequence[Events], accepted: Sequence[np.ndarray]) -> Pairs:
        return Pairs.of(
            np.concatenate([e.user[a] for e, a in zip(events, accepted, strict=True)]),
            np.concatenate([e.item[a] for e, a in zip(events, accepted, strict=True)]),
            num_rows=num_users,
            num_items=num_items,
        )

    earlier = {"none": [], "train": [train], "history": [train] if split == "val" else [train, val]}[protocol.mask]
    # Only users of the split need a mask: train holds far more events.
    evaluated = _flags(held_out.user, num_users)
    masked = pairs(earlier, [evaluated[e.user] for e in earlier]) if earlier else _no_pairs(num_users)
    wanted = relevant(held_out, protocol.relevance, min_played_pct=min_played_pct)
    targets = pairs([held_out], [wanted]).minus(masked)

    counts = relevant(train, protocol.history, min_played_pct=min_played_pct)
    known_users, known_items = _flags(train.user[counts], num_users), _flags(train.item[counts], num_items)

    has_targets = targets.sizes > 0
    users = np.flatnonzero(has_targets & known_users).astype(np.int32)
    if len(users) == 0:
        raise UserError(
            f"protocol {protocol.name!r} finds no user with both train events and a target in the {split} split; "
            f"choose another --protocol or --split, or evaluate on more data"
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


def _no_pairs(num_rows: int) -> Pairs:
    return Pairs(np.zeros(num_rows + 1, np.int64), np.zeros(0, np.int32))
