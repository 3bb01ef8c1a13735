"""Names of the assets, which are also the folders of their tables, and of the shards of a source. Light to import, for workers."""

import re

RAW_VIDEOS = "raw_videos"
CLIPS = "clips"
FRAME_SETS = "frame_sets"
CLIP_SCORES_PIXELS = "clip_scores/pixels"
CLIP_SCORES_AESTHETIC = "clip_scores/aesthetic"
EMBEDDINGS = "embeddings"
TRANSCODED_CLIPS = "transcoded_clips"
PREVIEWS = "previews"
DUPLICATES = "duplicates"
SEARCH_INDEX = "search_index"
CURATED_CLIPS = "curated_clips"

MAX_SHARDS = 999  # three digits
SHARD_NAME = re.compile(r"(.+)--(\d{3})-of-(\d{3})")
"""How the partitions of a source are called that is split: `name--003-of-016`."""
