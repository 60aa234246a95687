"""One render on disk: the block loop with its latent spool, snapshots, video file and timings.

Owns the work folder. Does not know the artefact store, Prefect or Ray.
"""
