"""What several channels need alike; no channel itself."""
