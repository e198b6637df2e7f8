"""A sweep over settings: what is tried, each trial, and what came out."""
