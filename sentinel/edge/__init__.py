"""What is checked before a request costs anything: one small pure file per rule."""
