"""Indexes on disk and in memory."""
