"""Formats: what recordings look like on disk, one file a format, bytes to columns."""
