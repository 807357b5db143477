"""The names of music_map/reporter.py that a function needs which only counts."""

from music_map.reporter import Progress, silent

__all__ = ["Progress", "silent"]
