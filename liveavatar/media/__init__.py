"""Files people give and get: sound, video, pictures, HLS playlists, MP4 boxes, through ffmpeg and Pillow.

Owns containers, codecs, sizes and crops. Does not know models, latents or quality measures.
"""
