"""Decisions over HTTP: asked for and waited for, looked up, filtered and streamed."""
