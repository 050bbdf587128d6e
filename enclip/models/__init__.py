"""CLIP: base weights, checkpoints, captions, pixels on the device, the loss and the training loop.

The only room that computes with torch. Everything comes in and goes out as arrays, files and records.
"""
