"""Playlist query: attention over the songs of a playlist, trained to continue listening sessions."""
