"""Dagster's side of the project: wiring only. What a stage does lies in `curation_assets.curation`.

`from __future__ import annotations` is not used here: Dagster reads annotations at run time.
"""
