"""Names of the assets, which are also the folders of their tables. Light to import, for workers."""

RAW_VIDEOS = "raw_videos"
CLIPS = "clips"
FRAME_SETS = "frame_sets"
CLIP_SCORES_PIXELS = "clip_scores/pixels"
EMBEDDINGS = "embeddings"
DUPLICATES = "duplicates"
CURATED_CLIPS = "curated_clips"
