"""The networks, single-device: diffusion transformer, video autoencoders, text and speech encoders."""
