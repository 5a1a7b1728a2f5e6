"""Tests of dafu.training."""
