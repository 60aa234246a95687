"""The block loop of a stream: sampling, denoising, placement, snapshots, threads, prompt embedding.

Owns what turns conditioning into latents and frames, block by block. Does not know files, folders or progress
(`render`), CUDA graphs (`fast`), or process groups (`distributed`).
"""
