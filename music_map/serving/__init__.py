"""The HTTP application over a recommender."""
