"""Media files in and out: sound, video, pictures, HLS playlists and MP4 boxes, through ffmpeg and Pillow.

Owns containers, codecs, sizes and crops. Does not know models, latents or quality measures.
"""
