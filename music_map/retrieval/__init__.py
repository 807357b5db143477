"""Playlist query, index, filters and recommendations."""
