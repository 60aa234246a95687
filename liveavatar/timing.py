"""Units of time: samples, frames, latents, blocks, clips, and the exact conversions between them.

A *frame* is one video frame (25 a second). A *latent* is the video autoencoder's code of
`LATENT_FRAMES` frames. A *block* is the `BLOCK_LATENTS` latents that are denoised together:
12 frames, 0.48 s. A *clip* is `infer_frames` frames, a multiple of a block.
"""

SAMPLE_RATE = 16_000  # Hz, of all sound that the models take
FPS = 25  # video frames per second; both models were trained at this rate
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640
LATENT_FRAMES = 4  # frames per latent
BLOCK_LATENTS = 3  # latents per block
BLOCK_FRAMES = BLOCK_LATENTS * LATENT_FRAMES  # 12
BLOCK_SECONDS = BLOCK_FRAMES / FPS  # 0.48
BLOCK_SAMPLES = BLOCK_FRAMES * SAMPLES_PER_FRAME  # 7680

assert SAMPLES_PER_FRAME * FPS == SAMPLE_RATE


def count_frames(num_samples: int) -> int:
    """Count the video frames that cover `num_samples` of 16 kHz audio; the last one may be partly silent."""
    return -(-num_samples // SAMPLES_PER_FRAME)


def count_blocks(num_frames: int) -> int:
    """Count the blocks that cover `num_frames` frames; the last one may be cut when played."""
    return -(-num_frames // BLOCK_FRAMES)
