"""Assets: one file per folder of tables, in the order of the data."""
