"""One stream over several processes: process group, channels, timestep-forcing pipeline, a rank.

Owns how latents and requests travel between ranks. Does not know Ray, which starts the processes (`tasks/cluster`),
nor the planner.
"""
