"""The renderer of the corpus: rasteriser, surfaces, light, camera, backdrops."""
