"""The replicated state in memory: tables, indexes, drafts, watches. Pure."""
