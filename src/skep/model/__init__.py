"""The nouns: specs, statuses, lifecycle, errors and their codec. Pure."""
