"""Curation: what each stage does with the tables, as plain functions. No Dagster here: the assets call these."""
