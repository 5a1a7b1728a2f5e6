"""Thin shells around the stages: take a batch, run the stage, send, log, acknowledge."""
