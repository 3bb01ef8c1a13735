"""Storage: where things lie (layout), objects of folders and buckets, Lance tables, leases between runs, and SQL views. Knows only the schemas."""
