"""Exports in their true layouts, of generated plays: listeners with sittings, each in one of some styles.

EXPORTS maps a name to the preset, the archive as it is downloaded, and what makes the files.
"""

import datetime
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

STYLES, SONGS_A_STYLE, SONGS_A_SITTING = 20, 60, 12
START, YEARS = 1_640_995_200, 2
Files = dict[str, str]


class Play(NamedTuple):
    user: int
    song: int
    at: int
    ms: int


def plays(count: int, users: int, seed: int = 0) -> list[Play]:
    """Plays in order of time: sittings of one style, a tenth of the plays broken off."""
    rng = np.random.default_rng(seed)
    found = []
    taste = rng.dirichlet(np.full(STYLES, 0.3), users)
    sittings = -(-count // SONGS_A_SITTING)
    begins = np.sort(rng.choice(YEARS * 365 * 24, sittings, replace=False)) * 3600 + START
    for begin, user in zip(begins.tolist(), rng.integers(0, users, sittings).tolist(), strict=True):
        style, at = rng.choice(STYLES, p=taste[user]), begin
        for place in np.minimum(rng.zipf(1.4, SONGS_A_SITTING) - 1, SONGS_A_STYLE - 1).tolist():
            ms = int(rng.integers(1_000, 20_000) if rng.random() < 0.1 else rng.integers(150_000, 280_000))
            found.append(Play(user, int(style) * SONGS_A_STYLE + place, at, ms))
            at += ms // 1000 + 1
    return found[:count]


def title(song: int) -> str:
    return ("Song {}", 'The "Best" Song {}', "Señorita, {}", "夜 {}", "A; B {}")[song % 5].format(song)


def artist(song: int) -> str:
    return ("Band {}", "Emerson, Lake & Palmer {}", "Björk {}")[song % 3].format(song // 6)


def album(song: int) -> str:
    return f"LP {song // 12}"


def iso(at: int, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime(form)


def quoted(*fields: object, separator: str = ",") -> str:
    return separator.join('"' + str(field).replace('"', '""') + '"' for field in fields) + "\n"


def spotify(count: int) -> Files:
    """The extended streaming history: arrays of 15,000 rows, with podcasts, beside videos and a paper."""
    rows = []
    for play in plays(count, 1):
        pod = play.song % 50 == 0  # one play in fifty songs' place is an episode
        rows.append({
            "ts": iso(play.at + play.ms // 1000), "platform": "ios", "ms_played": play.ms, "conn_country": "DE",
            "ip_addr": "0.0.0.0", "master_metadata_track_name": None if pod else title(play.song),
            "master_metadata_album_artist_name": None if pod else artist(play.song),
            "master_metadata_album_album_name": None if pod else album(play.song),
            "spotify_track_uri": None if pod else f"spotify:track:{play.song:022}",
            "episode_name": "Episode" if pod else None, "episode_show_name": "Show" if pod else None,
            "spotify_episode_uri": "spotify:episode:1" if pod else None, "audiobook_title": None,
            "audiobook_uri": None, "audiobook_chapter_uri": None, "audiobook_chapter_title": None,
            "reason_start": "trackdone", "reason_end": "trackdone", "shuffle": False, "skipped": play.ms < 30_000,
            "offline": False, "offline_timestamp": None, "incognito_mode": False,
        })  # fmt: skip
    folder = "Spotify Extended Streaming History"
    files = {
        f"{folder}/Streaming_History_Audio_2022-2023_{first // 15_000}.json": json.dumps(rows[first : first + 15_000])
        for first in range(0, len(rows), 15_000)
    }
    return files | {
        f"{folder}/Streaming_History_Video_2022-2023.json": json.dumps(rows[:1]),
        f"{folder}/ReadMeFirst_ExtendedStreamingHistory.pdf": "%PDF",
    }


def spotify_year(count: int) -> Files:
    """The account data: one year, without ids."""
    rows = [
        {
            "endTime": iso(play.at, "%Y-%m-%d %H:%M"),
            "artistName": artist(play.song),
            "trackName": title(play.song),
            "msPlayed": play.ms,
        }
        for play in plays(count, 1)
    ]
    pod = [{"endTime": "2022-01-05 10:30", "podcastName": "Show", "episodeName": "E", "msPlayed": 1000}]
    return {
        "Spotify Account Data/StreamingHistory_music_0.json": json.dumps(rows, indent=2),
        "Spotify Account Data/StreamingHistory_podcast_0.json": json.dumps(pod),
        "Spotify Account Data/Playlist1.json": json.dumps({"playlists": []}),
        "Spotify Account Data/Userdata.json": json.dumps({"username": "me"}),
    }


def spotify_old(count: int) -> Files:
    """The account data before 2024: StreamingHistory0.json."""
    files = spotify_year(count)
    return {"MyData/StreamingHistory0.json": files["Spotify Account Data/StreamingHistory_music_0.json"]}


def lastfm_to_csv(count: int) -> Files:
    """lastfm-to-csv: no header, a minute's precision, no commas in names; the newest first."""
    rows = (
        f"{artist(p.song).replace(',', '')},{album(p.song)},{title(p.song).replace(',', '').replace(chr(34), '')},"
        f"{iso(p.at, '%d %b %Y %H:%M')}\n"
        for p in plays(count, 1)[::-1]
    )
    return {"me.csv": "".join(rows)}


def lastfm_ghan(count: int) -> Files:
    """mainstream.ghan.nl: quoted, with the seconds."""
    rows = (
        quoted(p.at, iso(p.at, "%d %b %Y, %H:%M"), artist(p.song), "", album(p.song), "", title(p.song), "")
        for p in plays(count, 1)[::-1]
    )
    return {
        "recenttracks-me.csv": "uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid\n" + "".join(rows)
    }


def lastfm_stats(count: int) -> Files:
    """lastfmstats.com: semicolons, a byte order mark, milliseconds."""
    rows = (
        quoted(artist(p.song), album(p.song), "", title(p.song), p.at * 1000, separator=";") for p in plays(count, 1)
    )
    return {"lastfmstats-me.csv": "\ufeffArtist;Album;AlbumId;Track;Date#me\n" + "".join(rows)}


def lastfm_stats_json(count: int) -> Files:
    """The same as JSON."""
    rows = [
        {"track": title(p.song), "artist": artist(p.song), "album": album(p.song), "albumId": "", "date": p.at * 1000}
        for p in plays(count, 1)
    ]
    return {"lastfmstats-me.json": json.dumps({"username": "me", "scrobbles": rows})}


def lastfm_json(count: int) -> Files:
    """mainstream.ghan.nl as JSON: pages of the API, the first row is the song that is playing."""
    rows = [
        {
            "artist": {"mbid": "", "#text": artist(p.song)}, "streamable": "0", "image": [], "mbid": "",
            "album": {"mbid": "", "#text": album(p.song)}, "name": title(p.song), "url": "",
            "date": {"uts": str(p.at), "#text": iso(p.at, "%d %b %Y, %H:%M")},
        }
        for p in plays(count, 1)[::-1]
    ]  # fmt: skip
    now = {key: value for key, value in rows[0].items() if key != "date"} | {"@attr": {"nowplaying": "true"}}
    rows = [now, *rows]
    return {"scrobbles-me.json": json.dumps([rows[first : first + 200] for first in range(0, len(rows), 200)])}


def lastfm1k(count: int) -> Files:
    """The data set of 1,000 users: each user's newest play first, some without a title."""
    rows = sorted(plays(count, 30), key=lambda play: (play.user, -play.at))
    text = "".join(
        f"user_{p.user:06}\t{iso(p.at)}\t\t{artist(p.song)}\t\t{'' if p.song % 97 == 0 else title(p.song)}\n"
        for p in rows
    )
    folder = "lastfm-dataset-1K"
    header = "#id\tgender\tage\tcountry\tregistered\n"
    return {
        f"{folder}/userid-timestamp-artid-artname-traid-traname.tsv": text,
        f"{folder}/userid-profile.tsv": header + "user_000000\tm\t\tJapan\tAug 13, 2006\n",
    }


def _listen(play: Play, **more: object) -> dict:
    meta = {"artist_name": artist(play.song), "track_name": title(play.song), "additional_info": {"duration_ms": 1}}
    meta |= {"release_name": album(play.song)} if play.song % 3 else {}
    return {"listened_at": play.at, "recording_msid": "x", "track_metadata": meta, **more}


def listenbrainz(count: int) -> Files:
    """The export: JSON lines by year and month, likes and profile beside them."""
    files: dict[str, list[str]] = {}
    for play in plays(count, 1):
        files.setdefault(f"listens/{iso(play.at, '%Y/%m').replace('/0', '/')}.jsonl", []).append(
            json.dumps(_listen(play, user_name="rob"), ensure_ascii=False)
        )
    files["feedback.jsonl"] = [json.dumps({"recording_msid": "x", "score": 1})]
    files["pinned_recording.jsonl"] = [json.dumps({"row_id": 1})]
    files["user.json"] = [json.dumps({"user_id": 1, "username": "rob"})]
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}


def listenbrainz_array(count: int) -> Files:
    """The export before 2025: one array."""
    return {"rob_lb-2024-05-01.json": json.dumps([_listen(play) for play in plays(count, 1)[::-1]])}


def mpd(count: int) -> Files:
    """Slices of the Million Playlist Dataset, a thousand playlists each."""
    found: dict[tuple[int, int], list[Play]] = {}
    for place, play in enumerate(plays(count, 40)):
        found.setdefault((play.user, place // SONGS_A_SITTING), []).append(play)
    lists = [
        {
            "name": "mix", "collaborative": "false", "pid": pid, "modified_at": 1_493_424_000,
            "num_tracks": len(rows), "num_followers": 1, "num_edits": 2, "duration_ms": 1, "num_artists": 1,
            "tracks": [
                {"pos": pos, "artist_name": artist(p.song), "track_uri": f"spotify:track:{p.song:022}",
                 "artist_uri": f"spotify:artist:{p.song // 6}", "track_name": title(p.song),
                 "album_uri": f"spotify:album:{p.song // 12}", "duration_ms": 200_000, "album_name": album(p.song)}
                for pos, p in enumerate(rows)
            ],
        }
        for pid, rows in enumerate(found.values())
    ]  # fmt: skip
    info = {"generated_on": "2017-12-03 08:41:42.057563", "slice": "0-999", "version": "v1"}
    return {
        f"data/mpd.slice.{first}-{first + 999}.json": json.dumps(
            {"info": info, "playlists": lists[first : first + 1000]}, indent=4
        )
        for first in range(0, len(lists), 1000)
    } | {"stats.txt": "number of playlists 1000000\n", "license.txt": "...\n"}


def _ratings(count: int) -> list[tuple[int, int, int, int]]:
    rows = {(p.user + 1, p.song + 1): (p.song % 5 + 1, p.at) for p in plays(count, 60)}
    return [(user, song, stars, at) for (user, song), (stars, at) in rows.items()]


def movielens(count: int) -> Files:
    """ml-latest-small and ml-25m: CSV with headers, half stars."""
    films = "".join(f'{n + 1},"{title(n).replace(chr(34), chr(34) * 2)} (1995)",Drama|War\n' for n in range(1_200))
    rows = "".join(f"{user},{song},{stars - 0.5},{at}\n" for user, song, stars, at in _ratings(count))
    return {
        "ml-latest-small/ratings.csv": "userId,movieId,rating,timestamp\n" + rows,
        "ml-latest-small/movies.csv": "movieId,title,genres\n" + films,
        "ml-latest-small/links.csv": "movieId,imdbId,tmdbId\n1,0114709,862\n",
        "ml-latest-small/tags.csv": "userId,movieId,tag,timestamp\n2,60756,funny,1445714994\n",
    }


def movielens_1m(count: int) -> Files:
    """ml-1m and ml-10m: two colons, Latin-1."""
    films = "".join(f"{n + 1}::Señor {n} (1995)::Drama|War\n" for n in range(1_200))
    rows = "".join(f"{user}::{song}::{stars}::{at}\n" for user, song, stars, at in _ratings(count))
    return {"ml-1m/ratings.dat": rows, "ml-1m/movies.dat": films, "ml-1m/users.dat": "1::F::1::10::48067\n"}


def movielens_100k(count: int) -> Files:
    """ml-100k: tabs and bars, Latin-1, the cuts u1.base ... beside."""
    flags_ = "|".join("0" * 8 + "1" + "0" * 8 + "1" + "0")
    films = "".join(f"{n + 1}|Señor {n} (1995)|01-Jan-1995||http://x|{flags_}\n" for n in range(1_200))
    rows = "".join(f"{user}\t{song}\t{stars}\t{at}\n" for user, song, stars, at in _ratings(count))
    return {"ml-100k/u.data": rows, "ml-100k/u.item": films, "ml-100k/u1.base": rows, "ml-100k/u.user": "1|24|M|x|0\n"}


def recbole(count: int) -> Files:
    """RecBole's atomic files."""
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    rows = "".join(f"{user}\t{song}\t{stars}\t{at}\n" for user, song, stars, at in _ratings(count))
    items = "".join(f"{n + 1}\t{title(n)}\t1995\tDrama War\n" for n in range(1_200))
    return {
        "ml/ml.inter": head + rows,
        "ml/ml.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + items,
        "ml/ml.user": "user_id:token\tage:token\n1\t24\n",
    }


def recbole_untimed(count: int) -> Files:
    """RecBole's Last.fm (HetRec): artists, no times."""
    rows = "".join(f"{user}\t{song}\t{stars}\n" for user, song, stars, _ in _ratings(count))
    names = "".join(f"{n + 1}\t{artist(n)}\n" for n in range(1_200))
    return {
        "lastfm/lastfm.inter": "user_id:token\tartist_id:token\tweight:float\n" + rows,
        "lastfm/lastfm.item": "artist_id:token\tname:token_seq\n" + names,
    }


def lightgcn(count: int) -> Files:
    """train.txt and test.txt, a user and its items a line."""
    users: dict[int, list[int]] = {}
    for user, song, *_ in _ratings(count):
        users.setdefault(user - 1, []).append(song - 1)
    lines = {"train.txt": "", "test.txt": ""}
    for user, songs in users.items():
        cut = len(songs) * 4 // 5
        lines["train.txt"] += " ".join(map(str, [user, *songs[:cut]])) + "\n"
        lines["test.txt"] += " ".join(map(str, [user, *songs[cut:]])) + "\n"
    return {f"gowalla/{name}": text for name, text in lines.items()} | {
        "gowalla/user_list.txt": "org_id remap_id\n0 0\n"
    }


# Preset, archive as it is downloaded (none: the files lie in a folder), and what makes its files.
EXPORTS: dict[str, tuple[str, str, Callable[[int], Files]]] = {
    "spotify": ("spotify", "my_spotify_data.zip", spotify),
    "spotify-year": ("spotify", "my_spotify_data.zip", spotify_year),
    "spotify-old": ("spotify", "", spotify_old),
    "lastfm-to-csv": ("lastfm", "", lastfm_to_csv),
    "lastfm-ghan": ("lastfm", "", lastfm_ghan),
    "lastfm-ghan-json": ("lastfm", "", lastfm_json),
    "lastfmstats": ("lastfm", "", lastfm_stats),
    "lastfmstats-json": ("lastfm", "", lastfm_stats_json),
    "lastfm1k": ("lastfm1k", "lastfm-dataset-1K.tar.gz", lastfm1k),
    "listenbrainz": ("listenbrainz", "listenbrainz_rob.zip", listenbrainz),
    "listenbrainz-array": ("listenbrainz", "", listenbrainz_array),
    "mpd": ("mpd", "spotify_million_playlist_dataset.zip", mpd),
    "movielens": ("movielens", "ml-latest-small.zip", movielens),
    "movielens-1m": ("movielens", "ml-1m.zip", movielens_1m),
    "movielens-100k": ("movielens", "ml-100k.zip", movielens_100k),
    "recbole": ("recbole", "ml.zip", recbole),
    "recbole-untimed": ("recbole", "", recbole_untimed),
    "lightgcn": ("lightgcn", "gowalla.zip", lightgcn),
}


def written(folder: Path, archive: str, files: Files) -> Path:
    """The export: an archive, or a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / archive
    if archive.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, text in files.items():
                out.writestr(name, text)
        return path
    if archive:
        with tarfile.open(path, "w:gz") as out:
            for name, text in files.items():
                data = text.encode()
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
        return path
    for name, text in files.items():
        encoding = "latin-1" if name.endswith((".dat", "u.item")) else "utf-8"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode(encoding))
    return folder
