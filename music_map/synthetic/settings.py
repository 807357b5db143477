"""What to generate: presets with the sizes of the published data set, smaller ones, and overrides of both."""

from __future__ import annotations

import dataclasses

from music_map.errors import UserError

DURATION = 26_000_000  # seconds from the first event to the last, 300.9 days
TICK = 5  # timestamps are multiples of this many seconds
LISTENER_SHARE = 0.9238  # 9,238 of Yambda-50M's 10,000 users have listens; the others have likes only
MIN_LISTENS = 6  # the least active listener of Yambda-50M
MIN_USERS, MIN_ITEMS = 20, 100
MAX_LISTENS_PER_USER = 200_000  # mean; one listen in 130 seconds, day and night
MOST_MOODS = 100  # a session of 100 moods lasts days
MAX_ITEMS = 100_000_000  # song ids are spread over eight times as many numbers, which must fit uint32


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that the generated rows depend on.

    Attributes:
      size: name of the folder under `flat/`.
      num_users: users with any event.
      num_items: songs that some event is expected to hold; the catalogue has more, which nobody plays.
      num_listens, num_likes, num_dislikes, num_unlikes, num_undislikes: rows of each event file.
      popularity_skew: exponent of Yambda-50M's popularity curve; below 1 is flatter, which a catalogue of a few
        thousand songs needs so that its first song does not get a tenth of the listens.
      moods_per_session: stretches of one niche and mostly one artist, of 6 to 22 listens by the user, that follow each
        other without a pause, on average; 1: a session has one mood and no order worth learning.
      artist_runs: probability that a listen goes on with what the one before did, within a mood: another song of its
        artist, or the next song of what it repeats; 0: each listen is drawn on its own.
      seed: not negative.
    """

    size: str
    num_users: int
    num_items: int
    num_listens: int
    num_likes: int
    num_dislikes: int
    num_unlikes: int
    num_undislikes: int
    popularity_skew: float = 1.0
    moods_per_session: float = 1.0
    artist_runs: float = 0.0
    seed: int = 0

    @property
    def num_listeners(self) -> int:
        """Users that have listens; the rest have likes only."""
        return min(self.num_users - 1, round(self.num_users * LISTENER_SHARE))


# Rows as published (arXiv 2505.22238); 500m's unlikes and undislikes are not stated and follow 50m's shares.
PRESETS = {
    "tiny": Settings("tiny", 120, 300, 12_000, 480, 120, 168, 24, popularity_skew=0.5),
    "demo": Settings("demo", 1_200, 4_000, 400_000, 12_000, 1_800, 4_200, 360, popularity_skew=0.5),
    "50m": Settings("50m", 10_000, 934_057, 46_467_212, 881_456, 107_776, 312_972, 21_033),
    "500m": Settings("500m", 100_000, 3_004_578, 466_512_103, 9_033_960, 1_128_113, 3_207_600, 220_160),
    "5b": Settings("5b", 1_000_000, 9_390_623, 4_649_567_411, 89_334_605, 11_579_143, 32_944_520, 2_434_208),
}


def settings_for(
    size: str,
    *,
    num_users: int = 0,
    num_items: int = 0,
    num_listens: int = 0,
    moods_per_session: float = 1.0,
    artist_runs: float = 0.0,
    seed: int = 0,
) -> Settings:
    """A preset with some of its numbers replaced.

    Args:
      size: name of a preset.
      num_users, num_items, num_listens: 0 keeps the preset's; the other event files follow the number of listens.
      moods_per_session, artist_runs: see Settings.
      seed: a different seed gives different rows of the same kind.

    Raises:
      UserError: an unknown size, or numbers that no log can have.
    """
    if size not in PRESETS:
        raise UserError(f"--size={size} is unknown; choose one of {', '.join(PRESETS)}")
    for name, value, least, most in (
        ("num_users", num_users, MIN_USERS, 20_000_000),
        ("num_items", num_items, MIN_ITEMS, MAX_ITEMS),
        ("num_listens", num_listens, 1, 10**12),
    ):
        if value and not least <= value <= most:
            raise UserError(f"--{name}={value} is out of range; give {least} to {most}, or 0 for the preset's")
    if not 1 <= moods_per_session <= MOST_MOODS:
        raise UserError(f"--moods_per_session={moods_per_session} is out of range; give 1 to {MOST_MOODS}")
    if not 0 <= artist_runs < 1:
        raise UserError(f"--artist_runs={artist_runs} is out of range; give 0 or more, less than 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed={seed} is out of range; give 0 to {2**63 - 1}")
    preset = PRESETS[size]
    listens = num_listens or preset.num_listens

    def scaled(rows: int) -> int:
        return rows * listens // preset.num_listens

    settings = dataclasses.replace(
        preset,
        num_users=num_users or preset.num_users,
        num_items=num_items or preset.num_items,
        num_listens=listens,
        num_likes=scaled(preset.num_likes),
        num_dislikes=scaled(preset.num_dislikes),
        num_unlikes=scaled(preset.num_unlikes),
        num_undislikes=scaled(preset.num_undislikes),
        moods_per_session=moods_per_session,
        artist_runs=artist_runs,
        seed=seed,
    )
    least = 2 * MIN_LISTENS * settings.num_listeners
    if listens < least:
        raise UserError(
            f"--num_listens={listens} is too few for {settings.num_users} users; give {least} or more, "
            "or lower --num_users"
        )
    if listens > MAX_LISTENS_PER_USER * settings.num_users:
        raise UserError(
            f"--num_listens={listens} is more than {settings.num_users} users can hear in {DURATION // 86_400} days; "
            f"give --num_users={-(-listens // MAX_LISTENS_PER_USER)} or more"
        )
    return settings
