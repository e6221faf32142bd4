"""Stores batches in memory or on disk, and sends them over HTTP."""
