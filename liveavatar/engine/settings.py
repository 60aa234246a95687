"""Settings of a render: the one list of everything that changes its latents apart from its inputs and the model."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderSettings:
    """Settings that change the latents of a video.

    The command's form, jobs, streams and the key of a cached render carry it whole. The inputs (portrait, sound, pose
    track) and the model's weights are not part of it.
    """

    prompt: str
    prompt_words: str = "known"  # what the embedded model is given: "known", its own words for them, or "all"
    seed: int = 420  # of the noise and of the blink and gaze track
    sample_steps: int = 4  # denoise steps per block
    infer_frames: int = 48  # frames per clip: the reach of one draw of noise; a multiple of 12
    kv_cache_dtype: str = "auto"  # of keys and values: bf16, fp8, int8, e4m3; "auto" is the dtype of the weights
    fp8: bool = False  # linear layers of the transformer in 8 bits; the engine must be loaded in the same way

    def prompt_read(self, words_read: int | None) -> str:
        """Return what the text encoder is given: the prompt, or the phrases that the embedded model knows for it.

        Args:
            words_read: by the embedded model's text encoder; None for one that reads tokens of its own.
        """
        if words_read is None or self.prompt_words == "all":
            return self.prompt
        from liveavatar.prompt.heard import hear

        return hear(self.prompt, words_read).text
