"""The engine room: claims jobs, runs the model, delivers the replies. Imports sentinel; never the reverse."""
