"""Networks, single-device: transformer, KV cache, video autoencoders, text encoders.

Owns layers, shapes and streaming state. Does not know files, devices of a cluster, denoise schedules or jobs.
"""
