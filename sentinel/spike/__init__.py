"""The spike: sends what a busy hour sends in seconds, and shows what came of it. Nothing but the command line imports it."""
