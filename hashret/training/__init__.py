"""Objectives, mining, samplers' use, and the training loop."""
