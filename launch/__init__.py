"""Commands: one thin launcher per job; the work is in music_map."""
