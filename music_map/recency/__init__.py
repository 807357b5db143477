"""The recency head: attention over a user's latest songs, familiarity and trends, fitted without future events."""
