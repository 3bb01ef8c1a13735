"""Schemas: columns, tables and outcomes. Knows nothing of where data lies or who makes it."""
