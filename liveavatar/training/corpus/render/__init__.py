"""The renderer of the corpus: rasteriser, surfaces, light, camera, backdrops.

Draws heads of `head`; knows neither speech nor clip files.
"""
