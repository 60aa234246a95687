"""Shells around the engine: names, caching, retries, and where work runs. They pass paths and digests."""
